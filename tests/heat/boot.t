#!/usr/bin/env bash
# From the stack to the node: the user data and metadata that the Heat engine gave the servers of the sample
# environments are booted in scratch roots, through to the end of the real provision/bootstrap.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
work=${STACKTIRA_HEAT_DIR:-$repo/target/heat}
export PYTHONDONTWRITEBYTECODE=1
[ -e "$work/venv/complete" ] || skip_all "Heat is not here; next: tests/heat/run"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
mkdir -p "$scratch/bin" "$scratch/web/channel"
printf '{"v":1,"channel":"stable","snapshot":"%s"}\n' "$id" >"$scratch/web/channel/stable.json"

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}
program apt-get ':'
program apt-cache ':'
program dpkg ':'
program uname 'echo "$NODE"'
program sleep ':'
program ip 'case "$*" in *"dev ens3"* | "-4 -o addr show"*) echo "2: ens3    inet $ADDRESS/24 scope global ens3" ;; esac'
program curl 'while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift ;; --data-binary) sent=${2#@}; shift ;; --config) settings=$2; shift ;; http*) url=$1 ;; esac; shift; done
if [ -n "${sent:-}" ]; then cp "$sent" "$SIGNAL"; sed -n "s/^url = \"\(.*\)\"/\1/p" "$settings" >"$SIGNAL.url"; exit 0; fi
file=$WEB/${url#*://*/}; [ -e "$file" ] || exit 22; cp "$file" "$out"'

ok "the stacks of the sample environments" "$work/venv/bin/python" "$here/check.py" --dump "$scratch/drives" --only-dump --controls 2

# What cloud-init does with a config drive before it runs scripts.
cloud_init() {
    "$work/venv/bin/python" - "$scratch/drives/$1/openstack/latest" "$2" <<'END'
import base64, email, json, os, sys
import yaml
drive, root = sys.argv[1:]
with open(f'{drive}/meta_data.json', encoding='utf-8') as file:
    metadata = json.load(file)
os.makedirs(f'{root}/run/cloud-init')
with open(f'{root}/run/cloud-init/instance-data.json', 'w', encoding='utf-8') as file:
    json.dump({'v1': {'cloud_name': 'openstack'}, 'ds': {'meta_data': metadata | {'local-hostname': metadata['hostname']}}}, file)
with open(f'{drive}/user_data', encoding='utf-8') as file:
    message = email.message_from_file(file)
for part in message.walk():
    text = part.get_payload(decode=True)
    if part.get_content_type() == 'text/cloud-config':
        for wanted in yaml.safe_load(text)['write_files']:
            path = root + wanted['path']
            os.makedirs(os.path.dirname(path), exist_ok=True)
            content = wanted['content'].encode()
            with open(path, 'wb') as file:
                file.write(base64.b64decode(content) if wanted.get('encoding') == 'b64' else content)
            os.chmod(path, int(wanted['permissions'], 8))
    elif part.get_content_type() == 'text/x-shellscript':
        with open(f'{root}/script', 'wb') as file:
            file.write(text)
END
}

boot() {
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" NODE="$1" ADDRESS="$(cat "$2/etc/stacktira/address")" WEB="$scratch/web" SIGNAL="$2/signal.json" \
        STACKTIRA_ROOT="$2" STACKTIRA_WAIT=0 STACKTIRA_ATTEMPTS=1 sh "$2/script"
}
fact() { sed -n "s/.*\"$2\": \"\(.*\)\".*/\1/p" "$1/etc/facter/facts.d/stacktira.json"; }

for node in infra2 proxy1 control1 control2 hyper1; do
    root=$scratch/$node
    mkdir -p "$root/etc/apt/sources.list.d" "$root/opt/stacktira"
    printf 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n' >"$root/etc/os-release"
    printf 'deb http://old.invalid/debian bookworm main\n' >"$root/etc/apt/sources.list"
    cp -r "$repo/provision" "$root/opt/stacktira/provision"
    ok "$node: cloud-init reads its drive" cloud_init "$node" "$root"
    ok "$node: boots to the end of the bootstrap" boot "$node" "$root"
    ok "$node: Heat hears of success at its own handle" sh -c "grep -q '\"SUCCESS\"' '$root/signal.json' && grep -q '/resources/handle/signal\$' '$root/signal.json.url'"
    is "$node: is what the stack says" "$(fact "$root" role)" "${node%[0-9]}"
    is "$node: is where the stack says" "$(fact "$root" internal_address)" "$(cat "$root/etc/stacktira/address")"
    is "$node: knows the cluster's address" "$(fact "$root" vip)" 192.168.242.41
    is "$node: knows both control nodes" "$(sed -n 's/.*"controls": {\(.*\)}.*/\1/p' "$root/etc/facter/facts.d/stacktira.json")" '"control1": "192.168.242.51", "control2": "192.168.242.52"'
    is "$node: and finds them by name" "$(grep -E '^[0-9.]+ control[12][.]' "$root/etc/hosts" | sort)" "$(printf '192.168.242.5%s control%s.stacktira.test control%s\n' 1 1 1 2 2 2)"
    is "$node: installs from the mirror's snapshot" "$(grep -o "/snap/$id/" "$root/etc/apt/sources.list.d/stacktira.sources")" "/snap/$id/"
    ok "$node: joins the stack's Consul" grep -q '"192.168.242.31", "192.168.242.32", "192.168.242.33"' "$root/etc/consul.d/10-stacktira.json"
    is "$node: trusts the key that the mirror told Heat" "$(tr -d '\n' <"$root/etc/stacktira/site.asc" | base64 -w 0)" "$(printf "S0VZ%.0s" {1..20})"
done
is "all have one gossip key" "$(sed -n 's/.*"encrypt": "\(.*\)",/\1/p' "$scratch"/*/etc/consul.d/20-stacktira.json | sort -u | wc -l)" 1
is "only the servers know the first token" "$(cd "$scratch" && grep -lE '"(initial_management|master)"' ./*/etc/consul.d/20-stacktira.json | cut -d/ -f2)" infra2
is "control and infra may write what nodes look up, hypervisors have rights of their own, others less" "$(for node in infra2 control1 control2 proxy1 hyper1; do cat "$scratch/$node/etc/stacktira/consul.token"; echo; done | uniq -c | awk '{ print $1 }' | paste -sd' ')" "3 1 1"
is "the handles are five" "$(cat "$scratch"/*/signal.json.url | sort -u | wc -l)" 5

plan_done
