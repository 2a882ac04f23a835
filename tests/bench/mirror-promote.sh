#!/bin/sh
# Promotes and rolls back a snapshot of 60,000 packages and says how long it takes and what was copied.
# Usage: mirror-promote.sh [PACKAGES]    STACKTIRA_BIN: directory of the tools (default: target/release)
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
bin=${STACKTIRA_BIN:-$here/target/release}
count=${1:-60000}
base=/dev/shm
[ -w "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/stacktira-promote.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM INT
mkdir "$work/debs"

# Packages without content: an ar archive with a control file.
make_debs() {
    python3 - "$work/debs" "$1" "$2" <<'PYTHON'
import io, sys, tarfile
directory, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def archive(name, content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        if name:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1700000000
            tar.addfile(info, io.BytesIO(content))
    # Without the padding to ten kilobytes that tar adds.
    return out.getvalue()[:1536 if name else 1024]

def member(name, content):
    return b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 1700000000, 0, 0, b"100644", len(content)) + content + b"\n" * (len(content) % 2)

data = member(b"data.tar", archive("", b""))
for number in range(first, last):
    control = b"Package: st-n%d\nVersion: 1.0\nArchitecture: all\nMaintainer: Site <site@example.org>\nDescription: one of many\n" % number
    with open("%s/st-n%d_1.0_all.deb" % (directory, number), "wb") as file:
        file.write(b"!<arch>\n" + member(b"debian-binary", b"2.0\n") + member(b"control.tar", archive("./control", control) + b"\0" * 1024) + data)
PYTHON
}

cat >"$work/mirror.yaml" <<EOF
root: $work/mirror
url: http://mirror.example
signing_key: $work/site.sec.asc
channels: [stable]
sources:
  - {name: many, type: deb, dir: $work/debs, suites: [bookworm], components: [main], architectures: [amd64]}
EOF
mirror() { "$bin/mirror-sync" --config "$work/mirror.yaml" "$@"; }
mirror keygen --out "$work/site.sec.asc" --public "$work/site.gpg"
make_debs 0 "$count"
mirror sync
first=$(mirror snapshot)
make_debs "$count" $((count + 1))
mirror sync
second=$(mirror snapshot)
mirror promote "$first" --channel stable
used() { du -s --apparent-size --block-size=1 "$work/mirror" | cut -f 1; }
before=$(used)
python3 -B - "$bin/mirror-sync" "$work/mirror.yaml" "$second" "$here/tests/bench" <<'PYTHON'
import statistics, sys
tool, config, second, bench = sys.argv[1:]
sys.path.insert(0, bench)
import process
times = {"promote": [], "rollback": []}
for _ in range(25):
    for command, words in (("promote", [second]), ("rollback", [])):
        used = process.run([tool, "-q", "--config", config, command, *words, "--channel", "stable"])
        if used.status:
            sys.exit("%s ended with %d" % (command, used.status))
        times[command].append(used.wall * 1000)
for command, list in times.items():
    print("%-8s median %.1f ms, slowest of %d %.1f ms" % (command, statistics.median(list), len(list), max(list)))
PYTHON
echo "packages $count, bytes in the mirror before and after: $before $(used)"
