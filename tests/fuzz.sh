#!/usr/bin/env bash
# Runs the fuzz targets of a crate one after the other, on a stable toolchain: coverage comes from the
# compiler's own pass, the engine is libFuzzer. What breaks a target is kept below target/fuzz and ends the run.
#
#   tests/fuzz.sh CRATE [SECONDS [TARGET...]]        default: 600 seconds each, all targets
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: fuzz.sh CRATE [SECONDS [TARGET...]]" >&2; exit 2; }
repo=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
fuzz=$repo/crates/$1/fuzz
[ -e "$fuzz/Cargo.toml" ] || { echo "fuzz.sh: $1 has no fuzz targets" >&2; exit 2; }
seconds=${2:-600}
names=("${@:3}")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(find "$fuzz/fuzz_targets" -name '*.rs' -exec basename {} .rs \; | sort)
target=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repo/target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --manifest-path "$fuzz/Cargo.toml" --locked --release --target "$target" --bins

for name in "${names[@]}"; do
    corpus=$CARGO_TARGET_DIR/corpus/$name
    mkdir -p "$corpus"
    echo "--- $name"
    # A stack that nested lookups fit on. An input may take 20 s, as a busy machine lets a process stand still for some,
    # and the process 1 GiB, with coverage counted.
    (ulimit -s 131072 && "$CARGO_TARGET_DIR/$target/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=20 \
        -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$CARGO_TARGET_DIR/$name-" "$corpus" "$fuzz/seeds/$name") 2>&1 |
        grep -vE '^#[0-9]+[[:space:]]+(NEW|REDUCE|RELOAD|INITED|pulse)|^[[:space:]]+NEW_FUNC'
done
