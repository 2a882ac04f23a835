#!/usr/bin/env bash
# Where bootstrap.sh takes the metadata from: cloud-init, config drive, a real server that misbehaves, a file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck disable=SC2119
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"
document() { printf '{"name": "n", "meta": {"role": "%s", %s}}\n' "$1" "$words"; }
from() { is "$1" "$(fact_of role)" "$2"; }

fresh
mkdir -p "$root/run/cloud-init"
printf '{"ds": {"meta_data": %s}}\n' "$(document hyper)" >"$root/run/cloud-init/instance-data.json"
ok "cloud-init's document goes before the config drive" bootstrap --provisioner none
from "and its role counts" hyper
says "the step says where from" 'metadata: from cloud-init'
printf '{"ds": {"meta_data": {"instance-id": "i", "local-hostname": "n", "dsmode": "local"}}}\n' >"$root/run/cloud-init/instance-data.json"
rm "$root/run/stacktira/meta_data.json"
ok "what cloud-init has made up itself" bootstrap --provisioner none
from "is no metadata" infra

fresh
ok "a config drive that is mounted" bootstrap --provisioner none
says "is used" 'metadata: from the config drive'
for label in config-2 CONFIG-2; do
    fresh
    document proxy >"$scratch/drive.json"
    rm -rf "${root:?}/mnt"
    mkdir -p "$root/dev/disk/by-label"
    : >"$root/dev/disk/by-label/$label"
    settings=("DRIVE=$scratch/drive.json" "SEEN=$scratch/seen")
    # shellcheck disable=SC2016 # for the programs to expand
    program mount 'for target; do :; done; stat -c %a "$(dirname "$target")" >"$SEEN"; mkdir -p "$target/openstack/latest"; cp "$DRIVE" "$target/openstack/latest/meta_data.json"'
    # shellcheck disable=SC2016
    program umount 'rm -rf "$1/openstack"; echo "umount $*" >>"$CALLS"'
    ok "a drive with the label $label" bootstrap --provisioner none
    from "is mounted and read" proxy
    is "where only root looks" "$(cat "$scratch/seen")" 700
    is "and put away again" "$(calls '^umount'):$(find "$root/run/stacktira" -name drive)" 1:
    rm -rf "${root:?}/run" "${root:?}/dev"
    ok "after a restart, without the drive" bootstrap
    from "the document is still there" proxy
    is "for root" "$(stat -c %a "$root/etc/stacktira/metadata.json")" 640
done
fresh
rm -rf "${root:?}/mnt"
mkdir -p "$root/dev/disk/by-label"
: >"$root/dev/disk/by-label/config-2"
program mount 'echo "mount: wrong fs type" >&2; exit 32'
fails_with 69 "a drive that cannot be mounted" bootstrap
says "is named" 'config drive cannot be mounted: /dev/disk/by-label/config-2'

# A metadata service for real, and curl for real.
cat >"$scratch/server.py" <<'END'
import http.server, json, os, sys, time
state = {"asked": 0}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state["asked"] += 1
        mode = open(sys.argv[1]).read().strip()
        if mode == "late" and state["asked"] < 3: return self.send_error(503)
        if mode == "missing": return self.send_error(404)
        if mode == "redirect":
            self.send_response(302); self.send_header("Location", "/elsewhere"); self.end_headers(); return
        if mode == "hang": time.sleep(60); return
        body = b"<html>login" if mode == "garbage" else open(sys.argv[2], "rb").read()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
END
exec {port_of}< <(exec python3 "$scratch/server.py" "$scratch/mode" "$scratch/document")
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$scratch"' EXIT
read -r port <&"$port_of"
service() {
    fresh
    rm -rf "${root:?}/mnt" "$scratch/bin/curl"
    echo "$1" >"$scratch/mode"
    document hyper >"$scratch/document"
    # What is no question for the service is played.
    # shellcheck disable=SC2016
    printf '#!/bin/sh\ncase "$*" in *127.0.0.1*) exec /usr/bin/env -u PATH %s "$@" ;; esac\nwhile [ $# -gt 0 ]; do case $1 in -o) out=$2; shift ;; http*) url=$1 ;; esac; shift; done\nfile=$WEB/${url#*://*/}; [ -e "$file" ] || exit 7; cp "$file" "$out"\n' "$(command -v curl)" >"$scratch/bin/curl"
    chmod +x "$scratch/bin/curl"
    settings=("STACKTIRA_METADATA_URL=http://127.0.0.1:$port/openstack/latest/meta_data.json" http_proxy=http://127.0.0.1:1 "STACKTIRA_METADATA_WAIT=${2:-0}")
}
service good
ok "the metadata service, never through a proxy" bootstrap --provisioner none
from "is asked when nothing else is there" hyper
service late 30
ok "a service that comes up late" bootstrap --provisioner none
from "is asked again" hyper
service missing
fails_with 69 "a service that does not know this machine" bootstrap
says "is named, with everything else that was tried" 'no cloud-init data, config drive, answer from http://127.0.0.1.*metadata.json'
service redirect
fails_with 69 "a service that sends us elsewhere is not followed" bootstrap
service hang
fails_with 69 "a service that hangs is left after five seconds" timeout 50 env bash -c "$(declare -f on_node bootstrap); settings=($(printf '%q ' "${settings[@]}")); scratch=$scratch root=$root repo=$repo; bootstrap"
service garbage
fails_with 65 "a service that answers with a login page" bootstrap
says "is named" 'is not JSON'
service missing
mkdir -p "$root/etc/stacktira"
document proxy >"$root/etc/stacktira/metadata.json"
ok "a machine without a cloud, by its file" bootstrap --provisioner none
from "is what the file says" proxy
kill $server

fresh
printf '{"meta": ' >"$root/mnt/config/openstack/latest/meta_data.json"
fails_with 65 "a drive whose document is broken is not passed over" bootstrap
says "names the file" 'mnt/config/openstack/latest/meta_data.json'
printf '{"something": "else"}' >"$root/mnt/config/openstack/latest/meta_data.json"
fails_with 65 "a document that is no metadata" bootstrap
fresh
ok "once read" bootstrap --provisioner none
metadata "\"role\": \"hyper\", $words"
ok "it is kept for this boot" bootstrap
from "whatever comes later" infra
is "for root" "$(stat -c %a "$root/run/stacktira/meta_data.json")" 640

# Without python3, as Puppet's ruby reads it.
if command -v ruby >/dev/null; then
    mkdir "$scratch/without"
    IFS=: read -r -a places <<<"$PATH"
    for place in "${places[@]}"; do
        for found in "$place"/*; do case ${found##*/} in python*) ;; *) [ ! -x "$found" ] || ln -sf "$found" "$scratch/without/" ;; esac; done
    done
    fresh
    ok "without python3" env PATH="$scratch/without" bash -c "$(declare -f on_node bootstrap); settings=(); scratch=$scratch root=$root repo=$repo; bootstrap --provisioner none"
    from "ruby reads it" infra
fi
# Words that would break out of the files they go to.
for wrong in '"role": "infra\nx y"' '"internal_interface": "lan0\"; x"' '"vip": "1.2.3.4\nx"' '"provider": "a b"' '"mirror_address": "http://x\nTrusted: yes"' '"mirror_channel": "../x"' '"domain": "-"' '"consul_join": "a\",\"b"' '"consul_servers": "0"' '"consul_datacenter": "dc1\""'; do
    fresh
    metadata "\"role\": \"infra\", $words, $wrong"
    case $wrong in '"role"'*) code=2 ;; *) code=65 ;; esac
    fails_with $code "refused: $wrong" bootstrap --provisioner none
done
plan_done
