#!/bin/sh
# Builds `ts` as one static binary, small and quick to start: crates/ts/static.sh FILE (relative to the checkout)
#
# With musl where rustup has or gets that target, else with glibc, which is larger. CARGO names cargo.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 FILE" >&2; exit 2; }
cd "$(dirname "$0")/../.."
machine=$(uname -m)
target=$machine-unknown-linux-musl
has_target() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }
if ! has_target "$target" && command -v rustup >/dev/null; then
    timeout 120 rustup --quiet target add "$target" || echo "$0: there is no target $target; building with glibc" >&2
fi
if ! has_target "$target"; then
    target=$machine-unknown-linux-gnu
fi
# What nothing reads is left out: tables for unwinding (a panic ends the process) and gaps between segments. Relocations are
# written in their short form, which musl's start code understands.
flags="-C target-feature=+crt-static -C force-unwind-tables=no"
flags="$flags -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-z,noseparate-code"
case $target in
*-musl) flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs" ;;
esac
RUSTFLAGS="${RUSTFLAGS:-} $flags" \
    "${CARGO:-cargo}" build --profile dist --locked -p ts --bin ts --target "$target"
built=${CARGO_TARGET_DIR:-target}/$target/dist/ts
mkdir -p "$(dirname "$1")"
install -m 755 "$built" "$1"
