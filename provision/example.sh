#!/bin/sh
# Provisioner: example. How a tool of yours takes over a node. Copy this file to provision/NAME.sh, keep the line
# above with your name in it, and choose it by `provisioner: NAME` in the metadata or `--provisioner NAME`.
#
# When it is called, the bootstrap has: one signed package source, the tools in /opt/stacktira/bin, facts in
# /etc/facter/facts.d/stacktira.json (fact KEY), metadata (meta KEY [DEFAULT]), and a Consul agent on 127.0.0.1:8500
# whose token the tools find by CONSUL_HTTP_TOKEN_FILE. It must be safe to run twice, exit 0 when the node is
# configured, and say `error: what, why, what next` otherwise (die CODE WORDS).
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=example
# shellcheck source=lib.sh
. "$here/lib.sh"

case ${1:-} in
    '') ;;
    --help) printf 'Usage: example.sh [--help]\n\nAn example of a provisioner: writes who this node is to /etc/issue.d/stacktira.issue.\n'; exit 0 ;;
    *) die 2 "unknown argument: $1" ;;
esac

# A real tool would be installed here (install_packages NAME) and run by `ts`, so that its runs never overlap:
#   /opt/stacktira/bin/ts --queue converge --backoff 5s..2m /usr/bin/your-tool
printf '%s: %s, %s\n' "$(short_name)" "$(fact role)" "$(fact stacktira.internal_address)" |
    atomic_write 0644 "$root/etc/issue.d/stacktira.issue" || true
log "this node says who it is before a login"
