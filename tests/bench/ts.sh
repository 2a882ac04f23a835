#!/bin/bash
# What ts costs, beside its peers, and what it needs under load. Every figure about its speed and size comes from here.
#
#   tests/bench/ts.sh [ROUNDS]        (default 200; TS names the binary, default target/release/ts, made by `make build`)
#
# Times are medians of interleaved rounds, so that a busy machine is busy for all of them alike; process.py starts each by
# posix_spawn and waits for it. Each line: what, median and minimum in microseconds, the ratio to a static `true`. Then
# the ratios that are promised, the size, and 1000 kicks during one run. Peers that are not installed are left out.
set -euo pipefail
LC_ALL=C

here=$(cd "$(dirname "$0")/../.." && pwd)
ts=${TS:-$here/target/release/ts}
rounds=${1:-200}
[ -x "$ts" ] || { echo "$0: $ts is not built; hint: make build, or crates/ts/static.sh target/release/ts" >&2; exit 69; }

# State lives on a tmpfs, as below /run.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
export TS_DIR=$scratch/state TS_SCOPE=0 TMPDIR=$scratch TS_SOCKET=$scratch/tsp
tsp=$(type -P tsp || true)
# shellcheck disable=SC2329 # called by the trap
tidy() {
    touch "$scratch/go"
    "$ts" -Q busy -w >/dev/null 2>&1 || true
    "$ts" -Q load -w >/dev/null 2>&1 || true
    [ -z "$tsp" ] || "$tsp" -K || true
    rm -rf "$scratch"
}
trap tidy EXIT
echo 'int main(void) { return 0; }' | cc -O2 -static -x c -o "$scratch/true" -
# What the machine takes for any process: one that only ends. A libc adds to that, glibc's static start several times as much
# where a virtual machine traps the instructions by which it learns what the processor can do.
cat >"$scratch/end.c" <<'END'
void _start(void)
{
#if defined(__x86_64__)
    __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
#elif defined(__aarch64__)
    __asm__ volatile("mov x8, #93; mov x0, #0; svc #0");
#else
#error "not written for this processor"
#endif
}
END
cc -O2 -static -nostdlib -o "$scratch/end" "$scratch/end.c" 2>/dev/null || echo "$0: no process without a libc on this machine" >&2

# The queue `busy` has a run that goes on: what is measured there is a kick, and nothing that it starts.
wait_for_go="until [ -e '$scratch/go' ]; do sleep 0.2; done"
"$ts" -Q busy sh -c "$wait_for_go" >/dev/null
"$ts" -Q busy true >/dev/null
[ -z "$tsp" ] || "$tsp" -n true >/dev/null

python3 -B - "$rounds" "$scratch" "$ts" "$here/tests/bench" <<'END'
import os, shutil, statistics, sys

rounds, scratch, ts = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, sys.argv[4])
import process
true, flock, tsp = shutil.which('true'), shutil.which('flock'), shutil.which('tsp')
commands = {
    'a process that only ends': [scratch + '/end'],
    'static true': [scratch + '/true'],
    'true': [true],
    'ts --version': [ts, '--version'],
    'ts true, while something runs': [ts, '-Q', 'busy', true],
    'ts -f true': [ts, '-f', true],
}
if not os.path.exists(scratch + '/end'):
    del commands['a process that only ends']
if flock:
    commands['flock -x F true'] = [flock, '-x', scratch + '/lock', true]
if tsp:
    commands['tsp -n true'] = [tsp, '-n', true]
    commands['tsp -f true'] = [tsp, '-f', true]
times = {name: [] for name in commands}
for turn in range(rounds + 5):
    for name, command in commands.items():
        used = process.run(command)
        if used.status:
            sys.exit(f'{name} ends with {used.status}')
        # The first rounds warm the caches.
        if turn >= 5:
            times[name].append(used.wall * 1e6)
    if tsp:
        process.run([tsp, '-C'])

median = {name: statistics.median(values) for name, values in times.items()}
print(f'{str(rounds) + " rounds":32} {"median us":>10} {"minimum us":>10} {"x static":>9}')
for name, values in times.items():
    print(f'{name:32} {median[name]:10.0f} {min(values):10.0f} {median[name] / median["static true"]:9.2f}')
print()
for what, base, most in [
    ('ts true, while something runs', 'static true', 1.2),
    ('ts true, while something runs', 'tsp -n true', 0.7),
    ('ts -f true', 'flock -x F true', 0.9),
    ('ts -f true', 'tsp -f true', 0.85),
]:
    if base in median:
        ratio = median[what] / median[base]
        print(f'{what} / {base}: {ratio:.2f} (at most {most}: {"met" if ratio <= most else "not met"})')
above = (median['ts --version'] - median['static true']) / 1000
print(f'cold start: {above:.2f} ms above a static true (at most 1: {"met" if above <= 1 else "not met"})')
size = os.path.getsize(ts)
print(f'size: {size} bytes (at most 1000000: {"met" if size <= 1000000 else "not met"})')
END

# 1000 kicks during one run: how many runs, what the slowest caller waited, what stays in memory meanwhile.
job="echo run >> '$scratch/runs'; $wait_for_go"
"$ts" -Q load sh -c "$job" >/dev/null
until [ -s "$scratch/runs" ]; do sleep 0.01; done
slowest=0
for ((kick = 0; kick < 1000; kick++)); do
    began=${EPOCHREALTIME/./}
    "$ts" -Q load sh -c "$job" >/dev/null
    took=$((${EPOCHREALTIME/./} - began))
    [ "$took" -le "$slowest" ] || slowest=$took
done
memory=0 processes=0
for place in /proc/[0-9]*; do
    # Only ours: leader and heir of this queue in this directory.
    tr '\0' ' ' 2>/dev/null <"$place/cmdline" | grep -q '^ts --\(lead\|heir [0-9]*\) -Q load ' || continue
    tr '\0' '\n' 2>/dev/null <"$place/environ" | grep -qxF "TS_DIR=$TS_DIR" || continue
    memory=$((memory + $(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "$place/smaps_rollup")))
    processes=$((processes + 1))
done
touch "$scratch/go"
"$ts" -Q load -w
echo "1000 kicks during one run: $(wc -l <"$scratch/runs") runs (2), slowest caller $slowest us;" \
    "$processes processes (leader and heir) with $memory kB PSS (at most 2048)"
