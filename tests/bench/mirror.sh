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
    command -v "$program" >/dev/null || { echo "mirror.sh: no $program" >&2; exit 1; }
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
few = ""
for n in range(300):
    content = random.randbytes(20000)
    path = "pool/st-%d.deb" % n
    open(work + "/www/few/" + path, "wb").write(content)
    few += stanza("st-%d" % n, [], path, len(content), hashlib.sha256(content).hexdigest())
many = ""
for n in range(60000):
    depends = ["st-%d" % m for m in (n // 2, n // 3)] if 0 < n < 59000 else []
    body = b"p%d" % n
    many += stanza("st-%d" % n, [d for d in depends if d != "st-%d" % n], "pool/st-%d.deb" % n, len(body), hashlib.sha256(body).hexdigest())
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
for name, text in (("few", few), ("many", many)):
    base = work + "/www/%s/dists/stable/main/binary-amd64" % name
    os.makedirs(base)
    data = text.encode()
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
print("60,000 deb: %.1f MB; rpm-md primary: %.1f MB" % (len(many) / 1e6, len(data) / 1e6))
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
http { access_log off; sendfile on; keepalive_requests 100000; client_body_temp_path $work/t1; proxy_temp_path $work/t2;
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
cat >"$work/measure.py" <<'PY'
import os, resource, subprocess, sys, time
label, log, command = sys.argv[1], sys.argv[2], sys.argv[3:]
start = time.monotonic()
code = subprocess.call(command, stdout=subprocess.DEVNULL, stderr=open(log + ".err", "w"))
wall, usage = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
if code:
    sys.exit("%s failed with %d: %s" % (label, code, open(log + ".err").read()[-500:]))
open(log, "a").write("%s\t%f\t%f\t%f\n" % (label, wall, usage.ru_utime, usage.ru_maxrss / 1024))
PY
measure() { python3 "$work/measure.py" "$1" "$work/figures" "${@:2}"; }

(cd "$work/www/few/pool" && for file in *; do echo "url = $url/few/pool/$file"; echo "output = $work/curl/$file"; done) >"$work/curl.txt"
for i in 0 1 2 3; do awk -v i=$i 'int((NR - 1) / 2) % 4 == i' "$work/curl.txt" >"$work/curl.$i"; done
cat >"$work/curls" <<CURLS
#!/bin/sh
for i in 0 1 2 3; do curl -sf -K "$work/curl.\$i" & done
wait
CURLS
chmod +x "$work/curls"
if command -v aptly >/dev/null; then
    printf '{"rootDir": "%s/aptly", "downloadConcurrency": 4, "gpgDisableVerify": false}\n' "$work" >"$work/aptly.json"
    gpg --batch --no-default-keyring --keyring "$work/trusted.gpg" --import "$work/up.gpg" 2>/dev/null
else
    echo "mirror.sh: no aptly here, so it is left out" >&2
fi
for _ in $(seq "$rounds"); do
    rm -rf "$work/curl" "$work/few/m" "$work/aptly"
    mkdir "$work/curl"
    measure "300 cold: four curls" "$work/curls"
    measure "300 cold: mirror-sync" "$tool" --config "$work/few/mirror.yaml" sync
    measure "300 unchanged: mirror-sync" "$tool" --config "$work/few/mirror.yaml" sync
    if command -v aptly >/dev/null; then
        a=(aptly -config="$work/aptly.json")
        "${a[@]}" mirror create -keyring="$work/trusted.gpg" -architectures=amd64 few "$url/few" stable main >/dev/null 2>&1
        measure "300 cold: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" few
        measure "300 unchanged: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" few
        "${a[@]}" mirror create -keyring="$work/trusted.gpg" -architectures=amd64 -filter=st-58999 -filter-with-deps many "$url/many" stable main >/dev/null 2>&1
        measure "60,000 deb closure: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" many
        measure "60,000 deb unchanged: aptly" "${a[@]}" mirror update -keyring="$work/trusted.gpg" many
    fi
    rm -rf "$work/many/m" "$work/rpms/m"
    measure "60,000 deb closure: mirror-sync" "$tool" --config "$work/many/mirror.yaml" sync
    measure "60,000 deb unchanged: mirror-sync" "$tool" --config "$work/many/mirror.yaml" sync
    measure "60,000 rpm closure: mirror-sync" "$tool" --config "$work/rpms/mirror.yaml" sync
    measure "60,000 rpm unchanged: mirror-sync" "$tool" --config "$work/rpms/mirror.yaml" sync
done

if command -v createrepo_c >/dev/null && command -v rpmbuild >/dev/null; then
    printf 'Name: st-%%{number}\nVersion: 1.0\nRelease: 1\nSummary: bench\nLicense: none\nBuildArch: noarch\n%%description\nBench.\n%%install\nfor i in $(seq 20); do install -D -m 644 /dev/null %%{buildroot}/usr/share/st-%%{number}/$i; done\n%%files\n/usr/share/st-%%{number}\n' >"$work/st.spec"
    mkdir "$work/own"
    for n in $(seq 30); do
        rpmbuild -bb --quiet --define "number $n" --define "_topdir $work/build" --define "_rpmdir $work/own" --define '_build_name_fmt %%{NAME}.rpm' "$work/st.spec" >/dev/null 2>&1
    done
    # Thirty real packages; the rest are the same with another name of the file, as createrepo_c counts files.
    for n in $(seq 30); do
        for copy in $(seq 98); do ln "$work/own/st-$n.rpm" "$work/own/st-$n-$copy.rpm"; done
        cp "$work/own/st-$n.rpm" "$work/own/st-$n-99.rpm"
    done
    config own "- {name: own, type: rpm, dir: $work/own}"
    for _ in $(seq "$rounds"); do
        rm -rf "$work/own/repodata" "$work/own/.repodata" "$work/own.m" "$work/own-config"
        mkdir -p "$work/own-config"
        sed "s|$work/own/m|$work/own.m|" "$work/own/mirror.yaml" >"$work/own-config/mirror.yaml"
        measure "3000 rpm cold: createrepo_c" createrepo_c --quiet --no-database "$work/own"
        measure "3000 rpm cold: mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" sync
        for n in $(seq 30); do touch "$work/own/st-$n-99.rpm"; done
        measure "3000 rpm, 1 % changed: createrepo_c --update" createrepo_c --quiet --no-database --update "$work/own"
        measure "3000 rpm, 1 % changed: mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" sync
        measure "3000 rpm: snapshot of mirror-sync" "$tool" --config "$work/own-config/mirror.yaml" snapshot
    done
fi
python3 - "$work/figures" <<'PY'
import sys
rows = {}
for line in open(sys.argv[1]):
    label, *values = line.rstrip("\n").split("\t")
    rows.setdefault(label, []).append([float(value) for value in values])
print("%-48s %9s %9s %8s   (best of %d)" % ("", "wall ms", "user ms", "MB", max(map(len, rows.values()))))
for label, values in rows.items():
    wall, user, memory = (min(column) for column in zip(*values))
    print("%-48s %9.1f %9.1f %8.1f" % (label, wall * 1000, user * 1000, memory))
PY
