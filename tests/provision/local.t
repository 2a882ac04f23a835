#!/usr/bin/env bash
# stk-local without a cluster: usage, names, doctor, status.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

stk=$repo/provision/local/stk-local
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export STK_LOCAL_DIR=$scratch/state STK_LOCAL_PREFIX=none

ok "--help is help" "$stk" --help
says "with examples" 'stk-local kick --wait proxy1'
fails_with 2 "no command is usage" "$stk"
fails_with 2 "an unknown command is usage" "$stk" frob
says "and named" "unknown command: frob"
fails_with 2 "an unknown node is usage" "$stk" crash web9
says "and the known ones are listed" "no node is called 'web9' .there are: build1 infra1"
fails_with 2 "exec needs a command" "$stk" exec infra1
fails_with 2 "an unknown option of up" "$stk" up --frob
fails_with 2 "an unknown option of status" "$stk" status --frob
fails_with 2 "a prefix that could not be a name" env STK_LOCAL_PREFIX=../x "$stk" status
fails_with 2 "a prefix that is too long for an interface" env STK_LOCAL_PREFIX=abcdefgh "$stk" status
fails_with 2 "a directory that is not absolute" env STK_LOCAL_DIR=state "$stk" status

ok "status of a cluster that is not there" "$stk" status --json
is "has a line per node" "$(printf '%s\n' "$tap_output" | wc -l)" 7
says "that says so" '^\{"type":"node","v":1,"node":"infra1","role":"infra","address":"192.168.242.31","pid":null,"state":"absent","exit_code":null,"started":null\}$'
fails_with 1 "exec in a node that does not run" "$stk" exec infra1 true
says "says what to do" 'next: stk-local up infra1'
fails_with 1 "kick without nodes" "$stk" kick
fails_with 1 "a server in a cluster that does not run" "$stk" server
says "says what to do" 'next: stk-local up control1'
mkdir -p "$STK_LOCAL_DIR/none"
echo identity >"$STK_LOCAL_DIR/none/stage"
fails_with 1 "a server in a cluster that was made without a cloud" "$stk" server
says "says what to do" 'was made for the stage identity; next: stk-local destroy'
fails_with 2 "an unknown stage is usage" env STK_LOCAL_STAGE=orbit "$stk" status
ok "destroy of nothing is done" "$stk" destroy

# A machine without systemd-nspawn: everything else of PATH is there.
mkdir "$scratch/bin"
IFS=: read -r -a places <<<"$PATH"
for place in "${places[@]}"; do
    for program in "$place"/*; do
        [ ! -x "$program" ] || [ "${program##*/}" = systemd-nspawn ] || [ -e "$scratch/bin/${program##*/}" ] || ln -s "$program" "$scratch/bin/"
    done
done
fails_with 77 "doctor where something is missing" env PATH="$scratch/bin" "$stk" doctor
says "names the package" 'systemd-nspawn: apt-get install systemd-container'
fails_with 77 "and up refuses there" env PATH="$scratch/bin" "$stk" up
says "with the same words" 'systemd-nspawn: apt-get install systemd-container'
is "nothing was started" "$(find /run/netns -name 'none-*' 2>/dev/null)" ""

plan_done
