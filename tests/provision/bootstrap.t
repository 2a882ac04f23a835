#!/usr/bin/env bash
# bootstrap.sh in a scratch root, with package managers and downloads played by small programs on PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef

# A new root with a config drive, and programs that record how they were called.
fresh() {
    root=$scratch/root
    rm -rf "${root:?}" "${scratch:?}/bin" "$scratch/calls" "$scratch/web"
    mkdir -p "$root/etc/apt/sources.list.d" "$root/mnt/config/openstack/latest" "$scratch/bin" "$scratch/web/channel"
    : >"$scratch/calls"
    printf 'VERSION_CODENAME=bookworm\n' >"$root/etc/os-release"
    printf 'deb http://old.invalid/debian bookworm main\n' >"$root/etc/apt/sources.list"
    printf '{"v":1,"channel":"stable","snapshot":"%s"}\n' "$id" >"$scratch/web/channel/stable.json"
    metadata '"role": "infra", "mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY", "internal_interface": "lan0", "consul_join": "192.0.2.31,192.0.2.32", "vip": "192.0.2.41"'
    program apt-get 'echo "apt-get $*" >>"$CALLS"; case " $* " in *" update "*) exit "${APT_UPDATE:-0}" ;; esac'
    program curl 'echo "curl $*" >>"$CALLS"
while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift ;; http*) url=$1 ;; esac; shift; done
file=$WEB/${url#*://*/}; [ -e "$file" ] || exit 7; cp "$file" "$out"'
    program ip 'case "$*" in *lan0*) echo "2: lan0 inet 192.0.2.31/24 scope global lan0" ;; esac'
    program provisioner 'exit 0'
}

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}

metadata() { printf '{"name": "infra1", "meta": {%s}}\n' "$1" >"$root/mnt/config/openstack/latest/meta_data.json"; }

bootstrap() {
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" CALLS="$scratch/calls" WEB="$scratch/web" APT_UPDATE="${APT_UPDATE:-0}" \
        STACKTIRA_ROOT="$root" STACKTIRA_WAIT=0 STACKTIRA_METADATA_URL=http://metadata.invalid/meta_data.json \
        "$repo/provision/bootstrap.sh" "$@"
}

tree() { (cd "$root" && find . -type f ! -path './run/*' -exec sha256sum {} + | sort -k2); }

ok "--help is help" "$repo/provision/bootstrap.sh" --help
says "it names its options" '--role ROLE'
fails_with 2 "an unknown argument is refused" "$repo/provision/bootstrap.sh" --frob
says "and named" '--frob'

fresh
ok "a node of the role infra" bootstrap --provisioner none
is "the metadata's role is a fact" "$(sed -n 's/.*"role": "\(.*\)",/\1/p' "$root/etc/facter/facts.d/stacktira.json")" infra
is "its address is locked" "$(sed -n 's/.*"internal_address": "\(.*\)",/\1/p' "$root/etc/facter/facts.d/stacktira.json")" 192.0.2.31
is "one package source is left" "$(cd "$root/etc/apt" && find sources.list sources.list.d -type f 2>/dev/null)" sources.list.d/stacktira.sources
ok "it is the snapshot that the channel names" grep -qx "URIs: http://mirror.invalid:8080/snap/$id/deb/debian" "$root/etc/apt/sources.list.d/stacktira.sources"
ok "it must be signed by the site's key" grep -q '^Signed-By: .*/etc/stacktira/site.asc$' "$root/etc/apt/sources.list.d/stacktira.sources"
is "the key is the metadata's" "$(cat "$root/etc/stacktira/site.asc")" KEY
ok "the old source is kept aside" test -e "$root/etc/apt/disabled-by-stacktira/sources.list"
ok "it is a Consul server" grep -q '"bootstrap_expect": 3' "$root/etc/consul.d/10-stacktira.json"
ok "that joins the others" grep -q '"retry_join": \["192.0.2.31", "192.0.2.32"\]' "$root/etc/consul.d/10-stacktira.json"
ok "it is bootstrapped" test -e "$root/var/lib/stacktira/bootstrapped"
before=$(tree)
ok "a second time" bootstrap --provisioner none
is "changes nothing" "$(tree)" "$before"

fresh
metadata '"mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY", "internal_interface": "lan0", "consul_join": "192.0.2.31", "vip": "192.0.2.41"'
ok "--role wins" bootstrap --role hyper --provisioner none
ok "a client is no server" sh -c "! grep -q '\"server\"' '$root/etc/consul.d/10-stacktira.json'"
fresh
metadata '"mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY", "internal_interface": "lan0", "consul_join": "192.0.2.31", "vip": "192.0.2.41"'
program uname 'echo Proxy17.example'
ok "without a role, the letters of the name" bootstrap --provisioner none
is "are the role" "$(sed -n 's/.*"role": "\(.*\)",/\1/p' "$root/etc/facter/facts.d/stacktira.json")" proxy

fresh
mkdir -p "$root/run/cloud-init"
printf '{"ds": {"meta_data": {"name": "n", "meta": {"role": "hyper", "mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY", "internal_interface": "lan0", "consul_join": "192.0.2.31", "vip": "192.0.2.41"}}}}\n' >"$root/run/cloud-init/instance-data.json"
ok "cloud-init's document goes before the config drive" bootstrap --provisioner none
is "and its role counts" "$(sed -n 's/.*"role": "\(.*\)",/\1/p' "$root/etc/facter/facts.d/stacktira.json")" hyper

fresh
fails_with 2 "a role that is no name" bootstrap --role '../x'
says "is named" "'../x' is no role"
fails_with 2 "a role that is unknown" bootstrap --role webfarm
says "and the known ones are listed" 'build control hyper infra proxy'
fails_with 2 "a provisioner that is unknown" bootstrap --provisioner chef
says "is named" "no provisioner 'chef'"

fresh
rm -rf "$root/mnt/config/openstack"
fails_with 69 "no metadata at all" bootstrap
says "and where it was looked for" 'http://metadata.invalid/meta_data.json'
mkdir -p "$root/mnt/config/openstack/latest"
printf '{"meta": ' >"$root/mnt/config/openstack/latest/meta_data.json"
fails_with 65 "metadata that is no JSON" bootstrap
says "names the file" 'mnt/config/openstack/latest/meta_data.json'

fresh
rm "$scratch/web/channel/stable.json"
before=$(cat "$root/etc/apt/sources.list")
fails_with 69 "a mirror that is away" bootstrap
says "is named" 'the mirror does not answer: http://mirror.invalid:8080/channel/stable.json'
is "and the old sources are as they were" "$(cat "$root/etc/apt/sources.list")" "$before"

fresh
APT_UPDATE=100 fails_with 69 "a mirror whose signature is wrong" bootstrap
ok "leaves the old sources" test -e "$root/etc/apt/sources.list"
ok "and writes no new one" test ! -e "$root/etc/apt/sources.list.d/stacktira.sources"

fresh
printf '{"snapshot":"../../etc"}\n' >"$scratch/web/channel/stable.json"
fails_with 69 "a channel that names no snapshot is refused" bootstrap

fresh
metadata '"role": "hyper", "internal_interface": "lan0", "mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY"'
fails_with 69 "a node of a cluster needs Consul's servers" bootstrap --provisioner none
says "and is told which key" 'no consul_join'

fresh
metadata '"role": "infra", "internal_interface": "lo", "mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY", "consul_join": "192.0.2.31"'
fails_with 69 "an interface without an address" bootstrap --provisioner none
says "is named" "interface 'lo' has no usable address"

plan_done
