#!/usr/bin/env bash
# Speed and memory of mirror-sync beside its peers, interleaved in one run, against nginx on loopback:
# cold and unchanged synchronisation of 300 packages (curl on four connections, aptly), 60,000 packages of deb
# and rpm-md (closure, unchanged), and metadata of 3000 rpm packages (createrepo_c). What is not installed is
# left out with a word.
#
#   tests/bench/mirror.sh [ROUNDS]        default: 3
set -euo pipefail

rounds=${1:-3}
repo=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
tool=${MIRROR_SYNC:-$repo/target/release/mirror-sync}
[ -x "$tool" ] || { echo "mirror.sh: no $tool; next: make build" >&2; exit 1; }
for program in nginx curl python3; do
    command -v "$program" >/dev/null || { echo "mirror.sh: no $program; next: apt-get install nginx-light curl python3 (and the peers: aptly createrepo-c rpm)" >&2; exit 1; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/mirror-bench.XXXXXX")
trap '[ ! -f "$work/nginx.pid" ] || kill "$(cat "$work/nginx.pid")"; rm -rf "$work"' EXIT
chmod 755 "$work"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# Upstreams. They are snapshots that mirror-sync signed, or index files made here and signed through one.
python3 - "$work" <<'PY'
import gzip, hashlib, lzma, os, random, sys
work = sys.argv[1]
random.seed(1)
os.makedirs(work + "/www/few/pool")
os.makedirs(work + "/www/many")
def stanza(name, depends, path, size, digest):
    text = "Package: %s\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: Bench <bench@example.org>\n" % name
    if depends:
        text += "Depends: " + ", ".join(depends) + "\n"
    text += "Filename: %s\nSize: %d\nSHA256: %s\nSection: misc\nPriority: optional\n" % (path, size, digest)
    return text + "Description: package %s\n%s\n" % (name, "".join(" %064x\n" % random.getrandbits(256) for _ in range(5)))
few = []
for n in range(300):
    content = random.randbytes(20000)
    path = "pool/st-%d.deb" % n
    open(work + "/www/few/" + path, "wb").write(content)
    few.append(stanza("st-%d" % n, [], path, len(content), hashlib.sha256(content).hexdigest()))
many = []
for n in range(60000):
    depends = ["st-%d" % m for m in (n // 2, n // 3)] if 0 < n < 59000 else []
    body = b"p%d" % n
    many.append(stanza("st-%d" % n, [d for d in depends if d != "st-%d" % n], "pool/st-%d.deb" % n, len(body), hashlib.sha256(body).hexdigest()))
os.makedirs(work + "/www/many/pool")
# Only what the closure needs is fetched.
need, todo = set(), [58999]
while todo:
    n = todo.pop()
    if n not in need:
        need.add(n)
        todo += [n // 2, n // 3] if n else []
for n in need:
    open(work + "/www/many/pool/st-%d.deb" % n, "wb").write(b"p%d" % n)
for name, stanzas in (("few", few), ("many", many)):
    base = work + "/www/%s/dists/stable/main/binary-amd64" % name
    os.makedirs(base)
    data = "".join(stanzas).encode()
    packed = lzma.compress(data, preset=1)
    open(base + "/Packages.xz", "wb").write(packed)
    release = "Origin: Bench\nSuite: stable\nCodename: stable\nDate: Tue, 29 Feb 2000 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n"
    for suffix, content in (("", data), (".xz", packed)):
        release += " %s %d main/binary-amd64/Packages%s\n" % (hashlib.sha256(content).hexdigest(), len(content), suffix)
    open(work + "/www/%s/dists/stable/Release" % name, "w").write(release)
# 60,000 packages of rpm-md.
os.makedirs(work + "/www/rpms/repodata")
with open(work + "/primary.xml", "w") as f:
    f.write('<?xml version="1.0" encoding="UTF-8"?>\n<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="60000">\n')
    for n in range(60000):
        body = b"r%d" % n
        needs = "".join('<rpm:entry name="st-%d"/>' % m for m in {n // 2, n // 3} if 0 < n < 59000 and m != n)
        f.write('<package type="rpm"><name>st-%d</name><arch>noarch</arch><version epoch="0" ver="1.0" rel="1"/><checksum type="sha256" pkgid="YES">%s</checksum>'
                '<summary>%064x</summary><description>%s</description><size package="%d" installed="1" archive="1"/><location href="p/st-%d.rpm"/>'
                '<format><rpm:license>none</rpm:license><rpm:provides><rpm:entry name="st-%d" flags="EQ" epoch="0" ver="1.0" rel="1"/></rpm:provides><rpm:requires>%s</rpm:requires>%s</format></package>\n'
                % (n, hashlib.sha256(body).hexdigest(), random.getrandbits(256), "text %064x " % random.getrandbits(256) * 8, len(body), n, n, needs,
                   "".join("<file>/usr/bin/st-%d-%d</file>" % (n, i) for i in range(6))))
    f.write("</metadata>\n")
os.makedirs(work + "/www/rpms/p")
for n in need:
    open(work + "/www/rpms/p/st-%d.rpm" % n, "wb").write(b"r%d" % n)
data = open(work + "/primary.xml", "rb").read()
packed = gzip.compress(data, 1)
name = "repodata/primary.xml.gz"
open(work + "/www/rpms/" + name, "wb").write(packed)
open(work + "/www/rpms/repodata/repomd.xml", "w").write(
    '<repomd><revision>1</revision><data type="primary"><checksum type="sha256">%s</checksum><open-checksum type="sha256">%s</open-checksum>'
    '<location href="%s"/><timestamp>1</timestamp><size>%d</size><open-size>%d</open-size></data></repomd>'
    % (hashlib.sha256(packed).hexdigest(), hashlib.sha256(data).hexdigest(), name, len(packed), len(data)))
print("60,000 deb: %.1f MB; rpm-md primary: %.1f MB" % (sum(map(len, many)) / 1e6, len(data) / 1e6))
PY
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Bench <bench@example.org>' ed25519 sign never 2>/dev/null
gpg --batch --quiet --export >"$work/up.gpg"
for name in few many; do
    gpg --batch --quiet --clearsign --output "$work/www/$name/dists/stable/InRelease" "$work/www/$name/dists/stable/Release" 2>/dev/null
    gpg --batch --quiet --armor --detach-sign --output "$work/www/$name/dists/stable/Release.gpg" "$work/www/$name/dists/stable/Release" 2>/dev/null
done
gpg --batch --quiet --armor --detach-sign "$work/www/rpms/repodata/repomd.xml" 2>/dev/null
gpgconf --kill gpg-agent

cat >"$work/nginx.conf" <<CONF
daemon on; pid $work/nginx.pid; error_log $work/error.log; worker_processes 1; user root;
events { worker_connections 64; }
http { access_log $work/access.log; sendfile on; keepalive_requests 100000; client_body_temp_path $work/t1; proxy_temp_path $work/t2;
fastcgi_temp_path $work/t3; uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
server { listen 127.0.0.1:$port; root $work/www; } }
CONF
nginx -c "$work/nginx.conf" -p "$work" 2>/dev/null
url=http://127.0.0.1:$port

config() { # name, sources
    mkdir -p "$work/$1"
    printf 'root: %s/m\nurl: http://localhost\nsigning_key: %s\nchannels: [stable]\nsources:\n%s\n' "$work/$1" "$work/site.sec.asc" "$2" >"$work/$1/mirror.yaml"
}
"$tool" -q keygen --out "$work/site.sec.asc" --public "$work/site.asc"
deb="type: deb, suites: [stable], components: [main], architectures: [amd64], keyring: $work/up.gpg"
config few "- {name: few, url: '$url/few', $deb}"
config many "- {name: many, url: '$url/many', $deb, select: {closure: [st-58999]}}"
config rpms "- {name: rpms, type: rpm, url: '$url/rpms', keyring: $work/up.gpg, select: {closure: [st-58999]}}"

# measure LABEL COMMAND…: wall, user time and memory of one run, kept for the summary.
measure() { "$repo/tests/bench/process.py" note "$1" "$work/figures" "${@:2}"; }
# unchanged LABEL COMMAND…: the same, and what it asked the upstream.
unchanged() {
    : >"$work/access.log"
    measure "$@"
    python3 - "$1" "$work/access.log" "$work/requests" <<'PY'
import collections, re, sys, time
label, log, out = sys.argv[1:]
for _ in range(100):
    seen = re.findall(r'"(?:GET|HEAD) [^"]*" (\d+)', open(log).read())
    if seen:
        break
    time.sleep(0.01)
open(out, "a").write("%s\t%s\n" % (label, " ".join("%d x %s" % (count, code) for code, count in sorted(collections.Counter(seen).items()))))
PY
}

(cd "$work/www/few/pool" && for file in *; do echo "url = $url/few/pool/$file"; echo "output = $work/curl/$file"; done) >"$work/curl.txt"
for i in 0 1 2 3; do awk -v i=$i 'int((NR - 1) / 2) % 4 == i' "$work/curl.txt" >"$work/curl.$i"; done
cat >"$work/curls" <<CURLS
#!/bin/sh
for i in 0 1 2 3; do curl -sf -K "$work/curl.\$i" & done
wait
CURLS
chmod +x "$work/curls"
# What mirror-sync says it has outlives a power cut; what curl has does not.
printf '#!/bin/sh\n"%s" && exec sync -f "%s"\n' "$work/curls" "$work/curl" >"$work/curls-synced"
chmod +x "$work/curls-synced"
if command -v aptly >/dev/null; then
    printf '{"rootDir": "%s/aptly", "downloadConcurrency": 4, "gpgDisableVerify": false}\n' "$work" >"$work/aptly.json"
    gpg --batch --no-default-keyring --keyring "$work/trusted.gpg" --import "$work/up.gpg" 2>/dev/null
else
    echo "mirror.sh: no aptly here, so it is left out" >&2
fi
# aside PATH…: away, but not removed. ext4 looks longer for a new inode where others were removed a moment ago.
mkdir "$work/aside"
put_aside=0
aside() {
    for path in "$@"; do
        put_aside=$((put_aside + 1))
        [ ! -e "$path" ] || mv "$path" "$work/aside/$put_aside"
    done
}
for _ in $(seq "$rounds"); do
    aside "$work/curl" "$work/few/m" "$work/aptly"
    mkdir "$work/curl"
    measure "300 cold: four curls" "$work/curls"
    aside "$work/curl"
    mkdir "$work/curl"
    measure "300 cold: four curls, synced" "$work/curls-synced"
    measure "300 cold: mirror-sync" "$tool" --config "$work/few/mirror.yaml" sync
    unchanged "300 unchanged: mirror-sync" "$tool" --config "$work/few/mirror.yaml" sync
    if command -v aptly >/dev/null; then
        a=(aptly -config="$work/aptly.json")
        "${a[@]}" mirror create -keyring="$work/trusted.gpg" -architectures=amd64 few "$url/few" stable main >/dev/null 2>&1
        measure "300 cold: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" few
        unchanged "300 unchanged: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" few
        "${a[@]}" mirror create -keyring="$work/trusted.gpg" -architectures=amd64 -filter=st-58999 -filter-with-deps many "$url/many" stable main >/dev/null 2>&1
        measure "60,000 deb closure: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" many
        unchanged "60,000 deb unchanged: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" many
    fi
    aside "$work/many/m" "$work/rpms/m"
    measure "60,000 deb closure: mirror-sync" "$tool" --config "$work/many/mirror.yaml" sync
    unchanged "60,000 deb unchanged: mirror-sync" "$tool" --config "$work/many/mirror.yaml" sync
    measure "60,000 rpm closure: mirror-sync" "$tool" --config "$work/rpms/mirror.yaml" sync
    unchanged "60,000 rpm unchanged: mirror-sync" "$tool" --config "$work/rpms/mirror.yaml" sync
done

if command -v createrepo_c >/dev/null && command -v rpmbuild >/dev/null; then
    # One source package with many binary packages of twenty files each; what is not built twice is built quickly.
    spec() { # first, last, version
        python3 - "$@" <<'PY'
import sys
first, last, version = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("Name: st\nVersion: %s\nRelease: 1\nSummary: bench\nLicense: none\nBuildArch: noarch\n%%description\nBench." % version)
for n in range(first, last):
    needs = "".join("Requires: st-%d\n" % m for m in sorted({n // 2, n // 3} - {n}))
    print("%%package -n st-%d\nSummary: number %d\n%s%%description -n st-%d\nBench number %d." % (n, n, needs, n, n))
print("%%install\nfor n in $(seq %d %d); do mkdir -p %%{buildroot}/usr/share/st-$n; for i in $(seq 20); do : >%%{buildroot}/usr/share/st-$n/$i; done; done" % (first, last - 1))
for n in range(first, last):
    print("%%files -n st-%d\n/usr/share/st-%d" % (n, n))
PY
    }
    build() { # first, last, version, directory
        spec "$1" "$2" "$3" >"$work/st.spec"
        rpmbuild -bb --quiet --define "_topdir $work/build" --define "_rpmdir $4" --define '_build_name_fmt %%{NAME}-%%{VERSION}.rpm' \
            --define '_binary_payload w1.gzdio' "$work/st.spec" >/dev/null 2>&1
    }
    mkdir "$work/own" "$work/first" "$work/second"
    # rpmbuild needs the more time for each package the more there are in one.
    for first in $(seq 0 150 2850); do build "$first" $((first + 150)) 1.0 "$work/first"; done
    build 0 30 2.0 "$work/second"
    config own "- {name: own, type: rpm, dir: $work/own}"
    mv "$work/own/mirror.yaml" "$work/own.yaml"
    for _ in $(seq "$rounds"); do
        aside "$work/own" "$work/own.m" "$work/own-config"
        mkdir "$work/own" "$work/own-config"
        ln "$work"/first/*.rpm "$work/own/"
        sed "s|$work/own/m|$work/own.m|" "$work/own.yaml" >"$work/own-config/mirror.yaml"
        measure "3000 rpm cold: createrepo_c" createrepo_c --quiet --no-database "$work/own"
        measure "3000 rpm cold: mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" sync
        measure "3000 rpm cold: snapshot of mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" snapshot
        for file in "$work"/second/*.rpm; do
            rm "$work/own/$(basename "$file" 2.0.rpm)1.0.rpm"
            ln "$file" "$work/own/"
        done
        measure "3000 rpm, 1 % changed: createrepo_c --update" createrepo_c --quiet --no-database --update "$work/own"
        measure "3000 rpm, 1 % changed: mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" sync
        measure "3000 rpm, 1 % changed: snapshot of mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" snapshot
    done
fi
python3 - "$work/figures" "$work/requests" <<'PY'
import sys
rows, asked = {}, {}
for line in open(sys.argv[1]):
    label, *values = line.rstrip("\n").split("\t")
    rows.setdefault(label, []).append([float(value) for value in values])
for line in open(sys.argv[2]):
    label, requests = line.rstrip("\n").split("\t")
    asked.setdefault(label, set()).add(requests)
print("%-48s %9s %9s %8s   (best of %d)" % ("", "wall ms", "user ms", "MB", max(map(len, rows.values()))))
best = {}
for label, values in rows.items():
    wall, user, memory = (min(column) for column in zip(*values))
    best[label] = (wall * 1000, user * 1000, memory)
    requests = "   requests: " + "; ".join(sorted(asked[label])) if label in asked else ""
    print("%-48s %9.1f %9.1f %8.1f%s" % (label, *best[label], requests))

missed = 0
def goal(text, value, limit, unit, fine=None):
    global missed
    if value is None:
        print("  left out: %s" % text)
        return
    fine = value <= limit if fine is None else fine
    missed += not fine
    print("  %-6s %s: %s%s" % ("ok" if fine else "MISSED", text, value if isinstance(value, str) else "%.2f" % value, unit))
WALL, USER, MEMORY = range(3)
def of(label, column):
    return best[label][column] if label in best else None
def ratio(ours, theirs, column):
    ours = [of(label, column) for label in ours]
    theirs = of(theirs, column)
    return None if theirs is None or None in ours else sum(ours) / theirs
print("goals:")
cold = ["300 cold: mirror-sync"]
goal("300 packages cold, wall, of four curls (1.25)", ratio(cold, "300 cold: four curls", WALL), 1.25, "x")
goal("300 packages cold, wall, of four curls and sync (1.25)", ratio(cold, "300 cold: four curls, synced", WALL), 1.25, "x")
goal("300 packages cold, wall, of aptly (below 1)", ratio(cold, "300 cold: aptly", WALL), 1, "x")
goal("300 packages unchanged (30 ms)", of("300 unchanged: mirror-sync", WALL), 30, " ms")
for count, limit in (("300", 30), ("60,000 deb", 50), ("60,000 rpm", 50)):
    label = count + " unchanged: mirror-sync"
    requests = "; ".join(sorted(asked[label]))
    goal("%s unchanged, one conditional request" % count, requests, "", "", requests == "1 x 304")
goal("60,000 deb unchanged (50 ms)", of("60,000 deb unchanged: mirror-sync", WALL), 50, " ms")
goal("60,000 rpm unchanged (50 ms)", of("60,000 rpm unchanged: mirror-sync", WALL), 50, " ms")
goal("60,000 deb, filter and closure, user (1000 ms)", of("60,000 deb closure: mirror-sync", USER), 1000, " ms")
goal("60,000 deb, filter and closure (64 MB)", of("60,000 deb closure: mirror-sync", MEMORY), 64, " MB")
goal("60,000 rpm, closure (96 MB)", of("60,000 rpm closure: mirror-sync", MEMORY), 96, " MB")
generated = ["3000 rpm cold: mirror-sync", "3000 rpm cold: snapshot of mirror-sync"]
goal("rpm metadata cold, user, of createrepo_c (1.0)", ratio(generated, "3000 rpm cold: createrepo_c", USER), 1.0, "x")
changed = ["3000 rpm, 1 % changed: mirror-sync", "3000 rpm, 1 % changed: snapshot of mirror-sync"]
goal("rpm metadata, 1 % changed, user, of createrepo_c --update (0.2)", ratio(changed, "3000 rpm, 1 % changed: createrepo_c --update", USER), 0.2, "x")
sys.exit(1 if missed else 0)
PY
