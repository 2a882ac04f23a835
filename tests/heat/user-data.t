#!/usr/bin/env bash
# heat/user-data.sh in a scratch root: what a node does at its first boot, with the network and apt played by
# small programs on PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
token=gAAAA-a-token
root=$scratch/root
web=$scratch/web

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}

# A first boot: cloud-init has written the template's files and its own instance data.
fresh() {
    rm -rf "$root" "${scratch:?}/bin" "$scratch/calls" "$web"
    mkdir -p "$root/etc/stacktira" "$root/run/cloud-init" "$root/opt/stacktira/provision" "$scratch/bin" "$web/channel"
    : >"$scratch/calls"
    printf 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n' >"$root/etc/os-release"
    printf '192.0.2.31' >"$root/etc/stacktira/address"
    printf 'KEY\n' >"$root/etc/stacktira/site.asc"
    printf 'url = "http://heat.invalid/signal"\nheader = "X-Auth-Token: %s"\n' "$token" >"$root/etc/stacktira/signal.curl"
    printf '{"snapshot":"%s"}\n' "$id" >"$web/channel/stable.json"
    metadata '"role": "infra", "mirror_address": "http://mirror.invalid:8080", "mirror_channel": "stable"'
    program ip 'echo "1: lo inet 127.0.0.1/8 scope host lo"; echo "2: ens3 inet 192.0.2.31/24 scope global ens3"'
    program uname 'echo infra1'
    program apt-get 'echo "apt-get $*" >>"$CALLS"; case " $* " in *" update "*) exit "${APT_UPDATE:-0}" ;; *" install "*) exit "${APT_INSTALL:-0}" ;; esac'
    # Ends a wait at once, and keeps what was sent to Heat.
    program sleep ':'
    program curl 'echo "curl $*" >>"$CALLS"
while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift ;; --data-binary) sent=${2#@}; shift ;; http*) url=$1 ;; esac; shift; done
if [ -n "${sent:-}" ]; then cp "$sent" "$SIGNAL"; exit "${SIGNAL_CODE:-0}"; fi
file=$WEB/${url#*://*/}; [ -e "$file" ] || exit 22; cp "$file" "$out"'
    bootstrap 'exit 0'
}

metadata() { printf '{"ds": {"meta_data": {"name": "infra1", "meta": {%s}}}}\n' "$1" >"$root/run/cloud-init/instance-data.json"; }

bootstrap() {
    printf '#!/bin/sh\necho bootstrap >>"$CALLS"\n%s\n' "$1" >"$root/opt/stacktira/provision/bootstrap.sh"
    chmod +x "$root/opt/stacktira/provision/bootstrap.sh"
}

boot() {
    rm -f "$scratch/signal.json"
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" CALLS="$scratch/calls" WEB="$web" SIGNAL="$scratch/signal.json" \
        SIGNAL_CODE="${SIGNAL_CODE:-0}" APT_UPDATE="${APT_UPDATE:-0}" APT_INSTALL="${APT_INSTALL:-0}" \
        STACKTIRA_ROOT="$root" STACKTIRA_WAIT=0 "${shell:-sh}" "$repo/heat/user-data.sh"
}

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$scratch/signal.json" "$1"; }
given() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["meta"].get(sys.argv[2], ""))' "$root/run/stacktira/meta_data.json" "$1"; }
calls() { grep -c "$1" "$scratch/calls" || true; }

fresh
ok "a node boots" boot
is "Heat hears of success" "$(field status)" SUCCESS
is "with the site's key" "$(field data | base64 -d)" KEY
is "the bootstrap's metadata has the interface of the address" "$(given internal_interface)" ens3
is "and the key" "$(given mirror_key)" KEY
is "and what the cloud said" "$(given role)" infra
is "nobody else may read it" "$(stat -c %a "$root/run/stacktira/meta_data.json")" 640
is "the tools come from the mirror alone" "$(grep -c 'Dir::Etc::SourceParts=/dev/null.* install stacktira$' "$scratch/calls")" 1
is "the token is in no argument" "$(calls "$token")" 0
is "and in no log" "$(grep -c "$token" "$root/var/log/stacktira/user-data.log" || true)" 0
is "the image's sources stay" "$(find "$root/etc/apt" -type f 2>/dev/null | wc -l)" 0
is "nothing is left over" "$(find "$root/run/stacktira" -name 'first-boot.*' | wc -l)" 0
ok "a second time" boot
is "is a success again" "$(field status)" SUCCESS

fresh
shell=dash ok "with dash" boot
shell='bash' ok "with bash" boot

fresh
rm "$web/channel/stable.json"
fails_with 69 "a mirror that is away" boot
is "Heat hears of failure" "$(field status)" FAILURE
says "the log says why" 'the mirror does not answer: http://mirror.invalid:8080'
is "and Heat hears why, and where to read on" "$(field reason)" 'infra1: the mirror does not answer: http://mirror.invalid:8080; log: /var/log/stacktira/user-data.log'
is "the bootstrap did not run" "$(calls '^bootstrap')" 0

fresh
printf '{"snapshot":"../../etc"}\n' >"$web/channel/stable.json"
fails_with 69 "a channel that names no snapshot" boot
printf '<html>' >"$web/channel/stable.json"
fails_with 69 "a channel that is no JSON" boot
says "is named" "the channel 'stable' of http://mirror.invalid:8080 names no snapshot"
fresh
APT_UPDATE=100 fails_with 69 "packages with a wrong signature" boot
is "are not installed" "$(calls ' install ')" 0
fresh
APT_INSTALL=100 fails_with 1 "a package that cannot be installed" boot
is "is a failure" "$(field status)" FAILURE
fresh
rm "$root/etc/stacktira/site.asc"
fails_with 65 "a mirror without a key is not trusted" boot

fresh
# shellcheck disable=SC2016 # for the program to expand
bootstrap 'mkdir -p "$STACKTIRA_ROOT/var/lib/stacktira"; echo consul >"$STACKTIRA_ROOT/var/lib/stacktira/bootstrap.step"; echo "consul: error: no leader" >&2; exit 69'
fails_with 69 "a bootstrap that fails" boot
is "is tried three times" "$(calls '^bootstrap')" 3
is "Heat hears the step and the last words" "$(field reason)" 'infra1: step consul: consul: error: no leader; log: /var/log/stacktira/user-data.log'
fresh
bootstrap 'exit 2'
fails_with 2 "a bootstrap that is called wrongly" boot
is "is tried once" "$(calls '^bootstrap')" 1
fresh
# shellcheck disable=SC2016
bootstrap '[ -e "$STACKTIRA_ROOT/again" ] || { : >"$STACKTIRA_ROOT/again"; exit 1; }'
ok "a bootstrap that succeeds at the second attempt" boot
is "is a success" "$(field status)" SUCCESS

fresh
SIGNAL_CODE=22 ok "Heat that does not listen does not break the node" boot
says "but is said" 'Heat could not be told'
fresh
rm "$root/etc/stacktira/signal.curl"
ok "a node that nobody waits for" boot
ok "sends nothing" test ! -e "$scratch/signal.json"

fresh
printf '10.9.9.9' >"$root/etc/stacktira/address"
fails_with 69 "an address that no interface has" boot
says "is named" "no interface has this node's address '10.9.9.9'"
fresh
rm "$root/run/cloud-init/instance-data.json"
fails_with 69 "no metadata" boot
is "is a failure that Heat hears" "$(field status)" FAILURE
mkdir -p "$root/mnt/config/openstack/latest"
printf '{"name": "infra1", "meta": {"role": "infra", "mirror_address": "http://mirror.invalid:8080"}}' >"$root/mnt/config/openstack/latest/meta_data.json"
ok "a mounted config drive is as good" boot
fresh
printf '{"ds": ' >"$root/run/cloud-init/instance-data.json"
fails_with 69 "broken metadata" boot

# The build node.
build() {
    fresh
    rm "$root/etc/stacktira/site.asc"
    printf 'a package' >"$web/stacktira_1_amd64.deb"
    mkdir -p "$scratch/pack/deep"
    printf 'another' >"$scratch/pack/deep/consul_1_amd64.deb"
    printf 'no package' >"$scratch/pack/evil"
    tar -cf "$web/packages.tar" -C "$scratch/pack" -P deep evil
    metadata "\"role\": \"build\", \"mirror_address\": \"http://203.0.113.1:8080\", \"tools_url\": \"http://objects.invalid/stacktira_1_amd64.deb\", \"tools_sha256\": \"${1:-$(sha256sum <"$web/stacktira_1_amd64.deb" | cut -c1-64)}\", \"packages_url\": \"http://objects.invalid/packages.tar\", \"packages_sha256\": \"$(sha256sum <"$web/packages.tar" | cut -c1-64)\""
    # What build.sh does.
    # shellcheck disable=SC2016
    bootstrap 'echo SITE >"$STACKTIRA_ROOT/etc/stacktira/site.asc"'
}
build
ok "a build node boots" boot
is "Heat hears its new key" "$(field data | base64 -d)" SITE
is "the packages are there, by name and nothing else" "$(find "$root/srv/debs" -type f ! -name '.*' -printf '%P\n' | sort | paste -sd' ')" 'consul_1_amd64.deb stacktira_1_amd64.deb'
is "apt may read them" "$(stat -c %a "$root/srv/debs" "$root/srv/debs/consul_1_amd64.deb" | paste -sd' ')" '755 644'
is "the tools are installed from there" "$(calls "install $root/srv/debs/stacktira_1_amd64.deb")" 1
: >"$scratch/calls"
ok "a second time" boot
is "fetches nothing again" "$(calls objects.invalid)" 0
build "$id"
fails_with 65 "another digest" boot
says "is named with its file" "has another SHA-256 than $id: http://objects.invalid/stacktira_1_amd64.deb"
is "and nothing is installed" "$(calls ' install ')" 0
ok "or kept" test ! -e "$root/srv/debs/stacktira_1_amd64.deb"
build "not-a-digest"
fails_with 65 "no digest" boot

fresh
# A bootstrap that is killed with its script: the trap still tells Heat.
# shellcheck disable=SC2016
bootstrap 'kill -TERM "$PPID"; exit 1'
fails_with 143 "a script that is terminated" boot
is "is a failure that Heat hears" "$(field status)" FAILURE

plan_done
