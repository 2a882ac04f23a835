#!/bin/sh
# Installs the Debian packages that are missing for `make up` or `make test`. Rust is expected to be here.
set -eu

case ${1:-} in
    up) wanted="gcc libc6-dev make git curl ca-certificates iproute2 util-linux bsdutils procps mmdebstrap systemd-container dbus xz-utils" ;;
    test) wanted="gcc libc6-dev make git curl ca-certificates iproute2 util-linux bsdutils procps mmdebstrap systemd-container dbus xz-utils
        shellcheck perl gpgv gnupg openssh-client apt-utils dnf rpm createrepo-c puppet-agent hiera strace spin task-spooler" ;;
    *) echo "usage: deps.sh up|test" >&2; exit 2 ;;
esac

missing=
for package in $wanted; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
        'install ok installed') ;;
        *) missing="$missing $package" ;;
    esac
done
command -v cargo >/dev/null 2>&1 || [ -x "$HOME/.cargo/bin/cargo" ] || { echo "deps: cargo is not here; next: install Rust 1.89 or newer" >&2; exit 1; }
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "deps: missing:$missing; next: run as root, or install them" >&2; exit 1; }
echo "deps: installing$missing" >&2
log=$(mktemp)
# The lists of a fresh machine may be empty or old.
# shellcheck disable=SC2086 # a list of names
if ! { DEBIAN_FRONTEND=noninteractive apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "deps: apt-get failed; log: $log" >&2
    exit 1
fi
rm -f "$log"
