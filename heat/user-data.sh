#!/bin/sh
# First boot of a node that Heat made: fetches the tools, runs their bootstrap, and tells Heat how it ended.
# Nothing is filled in here: what differs from node to node is in the metadata and in the files that the
# template's cloud-config wrote. Safe to run again: sh /var/lib/cloud/instance/scripts/stacktira
#
# Environment:
#   STACKTIRA_ROOT       prefix of every path (tests)
#   STACKTIRA_WAIT       seconds to wait for what another machine serves (default: 1800)
#   STACKTIRA_ATTEMPTS   how often the bootstrap is tried (default: 3)
set -eu

root=${STACKTIRA_ROOT:-}
wait=${STACKTIRA_WAIT:-1800}
attempts=${STACKTIRA_ATTEMPTS:-3}
run=$root/run/stacktira
config=$root/etc/stacktira
logs=$root/var/log/stacktira
log=$logs/user-data.log
export STACKTIRA_WAIT="$wait" DEBIAN_FRONTEND=noninteractive

say() { printf 'user-data: %s\n' "$*" >&2; }

die() {
    say "error: $1"
    printf '%s' "$1" >"$run/failure"
    exit "${2:-1}"
}

# Files of the first boot are for root: the log may quote addresses, and the signal's settings have a token.
umask 077
mkdir -p "$run" "$logs" "$config"
rm -f "$run/failure"
work=$(mktemp -d "$run/first-boot.XXXXXX")

# Whatever happens, Heat hears it: a stack that waits for nothing helps nobody.
finish() {
    trap - EXIT HUP INT TERM
    rm -rf "$work"
    signal "$1" || say "warning: Heat could not be told; it will say that the node timed out"
    exit "$1"
}

signal() {
    [ -s "$config/signal.curl" ] || { say "nobody waits for this node"; return 0; }
    reason=$(cat "$run/failure" 2>/dev/null || true)
    [ -n "$reason" ] || reason=$(grep -s 'error: ' "$log" | tail -n 1 || true)
    step=$(cat "$root/var/lib/stacktira/bootstrap.step" 2>/dev/null || true)
    python3 - "$1" "$(uname -n): ${step:+step $step: }${reason:-ended with code $1}; log: /var/log/stacktira/user-data.log" "$config/site.asc" >"$run/signal.json" <<'END'
import base64, json, os, sys
code, reason, key = sys.argv[1:]
answer = {"id": "bootstrap", "status": "FAILURE", "reason": reason[:1000], "data": ""}
if code == "0":
    key = open(key, "rb").read() if os.path.exists(key) else b""
    answer.update(status="SUCCESS", reason="bootstrapped", data=base64.b64encode(key).decode())
json.dump(answer, sys.stdout)
END
    curl --config "$config/signal.curl" --noproxy '*' -sS -f --connect-timeout 10 --max-time 60 --retry 10 --retry-delay 6 \
        --retry-connrefused --data-binary "@$run/signal.json" -o /dev/null
}

# The metadata as the cloud has it, completed by what the cloud cannot hold: the key that is longer than a
# value may be, and the name of the interface that has this node's address. The bootstrap finds it in its cache.
gather() {
    python3 - "$root/run/cloud-init/instance-data.json" "$root/mnt/config/openstack/latest/meta_data.json" \
        "$config/site.asc" "${interface:-}" >"$work/meta_data.json" <<'END' || die "no metadata of an OpenStack cloud: neither in cloud-init's instance data nor in /mnt/config" 69
import json, os, sys
instance, drive, key, interface = sys.argv[1:]
document = None
if os.path.exists(instance):
    document = json.load(open(instance)).get("ds", {}).get("meta_data")
if not (document or {}).get("meta") and os.path.exists(drive):
    document = json.load(open(drive))
if not isinstance((document or {}).get("meta"), dict):
    sys.exit("no meta")
meta = document["meta"]
if interface:
    meta.setdefault("internal_interface", interface)
if os.path.exists(key) and os.path.getsize(key):
    meta.setdefault("mirror_key", open(key).read())
json.dump(document, sys.stdout)
END
}

meta() {
    python3 -c 'import json, sys
sys.stdout.write(str(json.load(open(sys.argv[1]))["meta"].get(sys.argv[2], "")))' "$run/meta_data.json" "$1"
}

interface_of() { ip -4 -o addr show | awk -v address="$1" '{ split($4, part, "/"); if (part[1] == address) { print $2; exit } }'; }

# get URL FILE: until it succeeds or the time is over.
get() {
    end=$(($(date +%s) + wait))
    until curl -sS -f -L --proto '=http,https' --connect-timeout 10 --speed-limit 1000 --speed-time 60 -o "$2" "$1"; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 5
    done
}

# fetch URL SHA256 FILE: the file is there only when it is the right one.
fetch() {
    printf '%s' "$2" | grep -Eqx '[0-9a-f]{64}' || die "no SHA-256 for $1: '$2'" 65
    [ ! -f "$3" ] || ! printf '%s  %s\n' "$2" "$3" | sha256sum --check --status || return 0
    get "$1" "$work/fetched" || die "cannot be fetched: $1" 69
    printf '%s  %s\n' "$2" "$work/fetched" | sha256sum --check --status || die "has another SHA-256 than $2: $1" 65
    mkdir -p "$(dirname "$3")"
    mv -f "$work/fetched" "$3"
    # apt reads it as a user of its own.
    chmod 755 "$(dirname "$3")"
    chmod 644 "$3"
}

apt() { apt-get -q -y -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 "$@"; }

# The build node has no mirror yet: the package of the tools, and the packages that it will serve, by digest.
tools_by_url() {
    url=$(meta tools_url)
    debs=$root$(meta mirror_debs)
    [ "$debs" != "$root" ] || debs=$root/srv/debs
    name=${url##*/}
    case $name in stacktira_*.deb) ;; *) die "tools_url does not end in stacktira_*.deb: $url" 65 ;; esac
    fetch "$url" "$(meta tools_sha256)" "$debs/$name"
    packages=$(meta packages_url)
    if [ -n "$packages" ] && [ ! -e "$debs/.unpacked-$(meta packages_sha256)" ]; then
        fetch "$packages" "$(meta packages_sha256)" "$root/var/cache/stacktira/packages.tar"
        # Names only: no path of the archive leads out of the directory.
        tar -xf "$root/var/cache/stacktira/packages.tar" -C "$debs" --no-same-owner --no-same-permissions --transform='s|.*/||' --wildcards '*.deb' ||
            die "packages_url is no tar archive with .deb files: $packages" 65
        chmod 644 "$debs"/*.deb
        rm -f "$root/var/cache/stacktira/packages.tar"
        : >"$debs/.unpacked-$(meta packages_sha256)"
    fi
    apt -o Acquire::Retries=5 update || die "the image's package sources do not answer" 69
    apt install "$debs/$name" || die "the package of the tools cannot be installed: $name"
}

# Every other node: from the snapshot that the mirror's channel names, signed by the key that came with the
# stack. The image's own sources are not asked and stay as they are; the bootstrap does the rest.
tools_from_mirror() {
    mirror=$(meta mirror_address)
    channel=$(meta mirror_channel)
    [ -n "$mirror" ] || die "the metadata has neither tools_url nor mirror_address" 65
    [ -s "$config/site.asc" ] || die "no key for the mirror's packages in /etc/stacktira/site.asc" 65
    chmod 755 "$config"
    chmod 644 "$config/site.asc"
    get "$mirror/channel/${channel:-stable}.json" "$work/channel.json" || die "the mirror does not answer: $mirror" 69
    snapshot=$(python3 -c 'import json, sys; sys.stdout.write(str(json.load(open(sys.argv[1])).get("snapshot")))' "$work/channel.json") || snapshot=
    printf '%s' "$snapshot" | grep -Eqx '[0-9a-f]{64}' || die "the channel '${channel:-stable}' of $mirror names no snapshot" 69
    # shellcheck source=/dev/null
    printf 'Types: deb\nURIs: %s/snap/%s/deb/debian\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$snapshot" \
        "$(. "$root/etc/os-release" && printf '%s' "$VERSION_CODENAME")" "$config/site.asc" >"$work/mirror.sources"
    chmod 755 "$run" "$work"
    chmod 644 "$work/mirror.sources"
    set -- -o "Dir::Etc::SourceList=$work/mirror.sources" -o Dir::Etc::SourceParts=/dev/null -o APT::Update::Error-Mode=any
    apt "$@" update || die "the mirror's packages cannot be used: $mirror/snap/$snapshot" 69
    apt "$@" install stacktira || die "the package of the tools cannot be installed from $mirror/snap/$snapshot"
}

main() {
    command -v apt-get >/dev/null || die "this image is no Debian; the bootstrap knows no other" 65
    address=$(cat "$config/address" 2>/dev/null || true)
    interface=$(interface_of "$address")
    [ -n "$interface" ] || die "no interface has this node's address '$address'" 69
    gather
    install -m 640 "$work/meta_data.json" "$run/meta_data.json"
    if [ -n "$(meta tools_url)" ]; then tools_by_url; else tools_from_mirror; fi
    attempt=1
    while :; do
        code=0
        "$root/opt/stacktira/provision/bootstrap.sh" || code=$?
        case $code in
            0) break ;;
            # Wrong words stay wrong; what another machine did not answer yet may come.
            1 | 69) [ "$attempt" -lt "$attempts" ] || exit $code ;;
            *) exit $code ;;
        esac
        attempt=$((attempt + 1))
        say "the bootstrap ended with $code; attempt $attempt of $attempts"
        sleep 10
    done
    say "bootstrapped"
}

trap 'finish 129' HUP
trap 'finish 130' INT
trap 'finish 143' TERM
trap 'finish $?' EXIT
: >"$log"
# To the log and to the console that cloud-init shows, without losing the code.
{ { (main) 2>&1 || echo $? >"$work/code"; } | tee -a "$log" >&2; } || say "warning: the log could not be written: $log"
code=0
[ ! -s "$work/code" ] || code=$(cat "$work/code")
finish "$code"
