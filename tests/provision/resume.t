#!/usr/bin/env bash
# bootstrap.sh killed at one after another of the moments when it starts a program, and then told to go on: the node
# becomes what a node is that nobody has killed. STACKTIRA_SWEEP=1 takes every moment, else every ninth.
# shellcheck disable=SC2119
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"
command -v strace >/dev/null || skip_all "strace is not here; next: make test-deps"

# killed N SCRIPT...: the shell itself is killed when it forks for the Nth time.
killed() {
    local moment=$1
    shift
    on_node timeout 60 strace -qq -o /dev/null -e "inject=clone,clone3,fork,vfork:signal=KILL:when=$moment" "$@" >/dev/null 2>&1
}
sources_are() { (cd "$root/etc/apt" && find sources.list sources.list.d -type f 2>/dev/null | wc -l); }

fresh
ok "a node that nobody kills" bootstrap --provisioner none
whole=$(tree | grep -v '/\.[^/]*\.[A-Za-z0-9]\{6\} ')
stride=$([ -n "${STACKTIRA_SWEEP:-}" ] && echo 1 || echo 9)
moment=1
kills=0
different='' sourceless='' refused=''
while :; do
    fresh
    code=0
    killed $moment "$repo/provision/bootstrap.sh" --provisioner none || code=$?
    # Not so many forks: it came to its end.
    [ $code -ne 0 ] || break
    kills=$((kills + 1))
    [ "$(sources_are)" -ge 1 ] || [ -e "$root/etc/apt/disabled-by-stacktira/sources.list" ] || sourceless="$sourceless $moment"
    # A half-written file may be left under its temporary name, and nowhere else; the next run does not mind.
    bootstrap --provisioner none >"$scratch/out" 2>&1 || { refused="$refused $moment"; sed 's/^/# /' "$scratch/out"; }
    find "$root/etc" "$root/var/lib" -name '.*.??????' -delete
    [ "$(tree)" = "$whole" ] || { different="$different $moment"; diff <(printf '%s\n' "$whole") <(tree) | sed 's/^/# /' | sed -n 1,8p; } || true
    moment=$((moment + stride))
done
note "killed at $kills moments"
ok "it was killed often" test $kills -ge 5
is "every killed one goes on" "$refused" ""
is "and becomes the same node" "$different" ""
is "none lost its last package source for good" "$sourceless" ""

# The scripts that it starts.
fresh
ok "a node" bootstrap --provisioner none
cp -r "$root" "$scratch/template"
moment=1
different='' half=''
while :; do
    rm -rf "$root"
    cp -r "$scratch/template" "$root"
    rm -rf "$root/etc/consul.d" "$root/etc/stacktira/consul.token" "$root/etc/stacktira/management.token" "$root/etc/stacktira/consul.env"
    code=0
    killed $moment "$repo/provision/consul.sh" || code=$?
    [ $code -ne 0 ] || break
    for file in "$root/etc/consul.d"/*.json; do
        [ ! -f "$file" ] || python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$file" 2>/dev/null || half="$half $moment"
    done
    bootstrap >/dev/null 2>&1 || different="$different $moment(code)"
    find "$root/etc" "$root/var/lib" -name '.*.??????' -delete
    [ "$(tree)" = "$whole" ] || different="$different $moment"
    moment=$((moment + stride))
done
note "consul.sh killed up to its fork number $moment"
is "consul.sh, killed and run again, ends the same" "$different" ""
is "and no configuration of an agent is half there" "$half" ""
plan_done
