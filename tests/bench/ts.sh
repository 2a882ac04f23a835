#!/bin/bash
# What ts costs, beside its peers: medians of interleaved rounds, in one process's time, so that a busy machine is
# busy for all of them alike. Peers that are not installed are left out.
#
#   tests/bench/ts.sh [ROUNDS]        (default 200; TS names the binary, default target/release/ts)
#
# Each line: what, median and minimum in microseconds, and the ratio to the first line (a bare `true`).
set -euo pipefail
LC_ALL=C

here=$(cd "$(dirname "$0")/../.." && pwd)
ts=${TS:-$here/target/release/ts}
rounds=${1:-200}
[ -x "$ts" ] || { echo "$0: $ts is not built; hint: cargo build --release -p ts" >&2; exit 69; }

# State lives on a tmpfs, as below /run.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
export TS_DIR=$scratch/state TS_SCOPE=0 TMPDIR=$scratch TS_SOCKET=$scratch/tsp
true=$(type -P true)
tsp=$(type -P tsp || true)
flock=$(type -P flock || true)
# shellcheck disable=SC2329 # called by the trap
tidy() {
    touch "$scratch/go"
    "$ts" -Q busy -w >/dev/null 2>&1 || true
    [ -z "$tsp" ] || "$tsp" -K || true
    rm -rf "$scratch"
}
trap tidy EXIT

names=()
declare -A times
# round NAME COMMAND...: one timed call.
round() {
    local name=$1 began ended
    shift
    began=${EPOCHREALTIME/./}
    "$@" >/dev/null
    ended=${EPOCHREALTIME/./}
    [ -n "${times[$name]+set}" ] || names+=("$name")
    times[$name]+="$((ended - began)) "
}

# The queue `busy` has a run that goes on: what is measured there is a kick, and nothing that it starts.
"$ts" -Q busy sh -c "until [ -e '$scratch/go' ]; do sleep 0.2; done" >/dev/null
"$ts" -Q busy "$true" >/dev/null
if [ -n "$tsp" ]; then
    "$tsp" -S 1 2>/dev/null || true
    "$tsp" -n "$true" >/dev/null
fi
for ((n = 0; n < rounds; n++)); do
    round 'true' "$true"
    round 'ts true, while something runs' "$ts" -Q busy "$true"
    round 'ts -f true' "$ts" -f "$true"
    [ -z "$flock" ] || round 'flock -x F true' "$flock" -x "$scratch/lock" "$true"
    if [ -n "$tsp" ]; then
        round 'tsp -n true' "$tsp" -n "$true"
        round 'tsp -fn true' "$tsp" -fn "$true"
        "$tsp" -C
    fi
done

base=
printf '%-32s %10s %10s %8s\n' "$rounds rounds" 'median us' 'minimum us' 'x true'
for name in "${names[@]}"; do
    mapfile -t sorted < <(tr ' ' '\n' <<<"${times[$name]}" | grep . | sort -n)
    median=${sorted[$((${#sorted[@]} / 2))]}
    base=${base:-$median}
    printf '%-32s %10d %10d %8s\n' "$name" "$median" "${sorted[0]}" "$((median * 100 / base / 100)).$(printf %02d $((median * 100 / base % 100)))"
done
