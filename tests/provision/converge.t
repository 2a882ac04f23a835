#!/usr/bin/env bash
# provision/converge.sh in a scratch root, with programs that play their parts: what is published of a run, which
# change it was for and how long ago that was, and that a cap on the number of runs is heeded.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

[ ! -e /opt/stacktira/bin ] || skip_all "the tools are installed on this machine, and would be used"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
calls=$scratch/calls
mkdir -p "$scratch/bin" "$root/run/stacktira" "$root/var/lib/stacktira"
printf '{"name": "node1", "meta": {"role": "infra"}}\n' >"$root/run/stacktira/meta_data.json"

program() {
    printf '#!/bin/sh\necho "%s $*" >>"%s"\n%s\n' "$1" "$calls" "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}
program cloner 'exit 0'
program consul-kv "case \$1 in put) cat >\"$scratch/published\" ;; esac"
# shellcheck disable=SC2016 # for the programs themselves
{
    program hiera-consul 'case "$*" in
*stacktira::limit_name) echo converge ;;
*stacktira::limit) [ -n "${LIMIT:-}" ] || exit 1; echo "$LIMIT" ;;
*) exit 1 ;;
esac'
    program consul-elect '[ -z "${SLOT:-}" ] || exit "$SLOT"
until [ "$1" = -- ]; do shift; done; shift; exec "$@"'
    program puppet 'exit "${PUPPET:-0}"'
}

converge() {
    : >"$calls"
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" STACKTIRA_ROOT="$root" "$@" "$repo/provision/converge.sh"
}
published() { sed -n "s/.*\"$1\": \(.*\)/\1/p" "$scratch/published"; }

fails_with 2 "Puppet's code is the run's" converge PUPPET=2 TS_REASON='boot or timer'
ok "what is published is JSON" python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$scratch/published"
is "a run that no watch asked for has no cause" "$(published cause)" "null}"
fails_with 1 "Puppet waits for nobody" grep -q '^consul-elect' "$calls"

now=$(date +%s)
ok "a run that a watch asked for" converge STACKTIRA_WATCH_NAME=hiera STACKTIRA_WATCH_INDEX=812 STACKTIRA_WATCH_SEEN=$((now - 7)).250
ok "names the change, and the seconds since it was seen" python3 -c 'import json, sys
cause = json.load(open(sys.argv[1]))["cause"]
assert cause["watch"] == "hiera" and cause["index"] == 812, cause
assert 6 <= cause["after"] <= 60, cause' "$scratch/published"
ok "no word of it can break the document" converge STACKTIRA_WATCH_NAME='a"}' STACKTIRA_WATCH_INDEX='' STACKTIRA_WATCH_SEEN="$now.000"
ok "which is still JSON" python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["cause"]["index"] is None' "$scratch/published"
ok "a time that is none" converge STACKTIRA_WATCH_NAME=x STACKTIRA_WATCH_SEEN=soon
is "is no cause" "$(published cause)" "null}"

ok "a cap is set" converge LIMIT=3
ok "Puppet waits for a slot" grep -qx 'consul-elect slot converge --limit 3 --timeout 10m --kill-after 4s --on-loss continue -- puppet apply .*' "$calls"
ok "and runs in it" grep -q '^puppet apply' "$calls"
fails_with 1 "no slot in time: the run has failed, and is tried again" converge LIMIT=3 SLOT=124
is "and says so" "$(published state | cut -d, -f1)" '"failed"'

mkdir -p "$root/etc" "$root/var/lib/stacktira/apply"
printf 'ID=debian\n' >"$root/etc/os-release"
printf '{"name": "node1", "meta": {"role": "infra", "mirror_address": "http://mirror:8080"}}\n' >"$root/run/stacktira/meta_data.json"
# shellcheck disable=SC2016 # for the program itself
program mirror-sync 'exit "${APPLY:-0}"'
program dpkg 'exit 0'
ok "a node with a mirror" converge
ok "has its modules from there" grep -q '^cloner --mirror http://mirror:8080/git --mode export ' "$calls"
printf 'an index\n' >"$root/var/lib/stacktira/apply/refs.index"
ok "where the snapshot says what their refs are" converge
ok "they are that, whatever the mirror has by now" grep -q "^cloner --mirror http://mirror:8080/git --refs $root/var/lib/stacktira/apply/refs.index --mode export " "$calls"
ok "also while the mirror cannot be asked" converge APPLY=69
ok "and the same" grep -q -- ' --refs ' "$calls"
fails_with 1 "a snapshot that is refused stops the run" converge APPLY=1
fails_with 1 "before anything is brought" grep -q '^cloner' "$calls"

plan_done
