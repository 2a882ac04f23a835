#!/usr/bin/env bash
# provision/lib/packages.sh in a scratch root: which packages go back when a node leaves a snapshot, and which stay.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

[ -x /usr/lib/apt/apt-helper ] || skip_all "apt is not here"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
lists=$root/var/lib/apt/lists
mkdir -p "$scratch/bin" "$lists" "$root/var/lib/stacktira"

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}
program dpkg-query "cat '$scratch/installed'"
program apt-get "printf '%s\n' \"\$*\" >>'$scratch/asked'; exit \${APT:-0}"

# follow SNAPSHOT [VARIABLE=VALUE]: in a shell of its own, as converge.sh calls it.
follow() {
    local snapshot=$1
    shift
    : >"$scratch/asked"
    env PATH="$scratch/bin:$PATH" STACKTIRA_ROOT="$root" "$@" sh -euc '
        here=$1 script=test
        . "$here/lib.sh"
        PATH=$3:$PATH
        . "$here/lib/packages.sh"
        packages_follow "$2" || exit' follow "$repo/provision" "$snapshot" "$scratch/bin"
}
record() { cat "$root/var/lib/stacktira/packages.snapshot" 2>/dev/null; }
asked() { grep -o ' install .*' "$scratch/asked" | sed 's/ install //'; }
# offer SNAPSHOT SOURCE: `NAME ARCHITECTURE VERSION` lines become a list of apt.
offer() {
    while read -r name architecture version; do
        printf 'Package: %s\nArchitecture: %s\nVersion: %s\nDescription: a package\n Version: 99\n\n' "$name" "$architecture" "$version"
    done >"$lists/mirror:8080_snap_$1_deb_$2_dists_bookworm_main_binary-amd64_Packages"
    : >"$lists/mirror:8080_snap_$1_deb_$2_dists_bookworm_InRelease"
}
both() {
    rm -f "$lists"/*
    offer aaa debian <<<'web amd64 1:1.9-1
tool all 2.0
lib amd64 3
lib i386 3
held amd64 1
kept amd64 1
image amd64 5
several amd64 1.9
several amd64 1.10
several amd64 1.2'
    offer bbb debian <<<'web amd64 1:1.10-1
tool all 2.0
lib amd64 4
lib i386 4
held amd64 2
image amd64 6
several amd64 2.0'
    offer bbb extra <<<'only-new amd64 1'
}
cat >"$scratch/installed" <<'END'
ii  web:amd64 1:1.10-1
ii  tool:all 2.0
ii  lib:amd64 4
iF  lib:i386 4
hi  held:amd64 2
rc  gone:amd64 2
ii  image:amd64 7
ii  several:amd64 2.0
ii  only-new:amd64 1
ii  own:amd64 3
END

both
ok "a node that was on no snapshot" follow bbb
is "installs nothing" "$(asked)" ""
is "and knows where it is" "$(record)" bbb
is "lists of other snapshots are removed" "$(find "$lists" -name '*_snap_aaa_*')" ""
ok "the same snapshot again" follow bbb
is "installs nothing" "$(asked)" ""

both
fails_with 100 "apt cannot do it" follow aaa APT=100
is "which is not forgotten" "$(record)" bbb
ok "back to an earlier snapshot" follow aaa
is "goes back with what came from the later one, to the newest that is there, each architecture by itself" \
    "$(asked)" "web:amd64=1:1.9-1 lib:amd64=3 lib:i386=3 several:amd64=1.10"
is "and is known" "$(record)" aaa
is "with its lists alone" "$(find "$lists" -name '*_snap_*' | grep -vc _snap_aaa_ || true)" 0

sed -i -e 's/1:1.10-1/1:1.9-1/' -e 's/\(lib:.*\) 4/\1 3/' -e 's/several:amd64 2.0/several:amd64 1.10/' "$scratch/installed"
both
ok "forward again" follow bbb
is "is Puppet's business" "$(asked)" ""

plan_done
