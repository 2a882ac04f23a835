#!/bin/sh
# Provisioner: none. For nodes that somebody else configures, and for tests.
case ${1:-} in
    '') exit 0 ;;
    --help) printf 'Usage: none.sh [--help]\n\nThe provisioner that does nothing.\n' ;;
    *) printf 'none: error: unknown argument: %s\n' "$1" >&2; exit 2 ;;
esac
