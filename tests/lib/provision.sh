# shellcheck shell=bash
# A scratch root for the scripts of provision/: package managers, addresses and downloads are played by small programs on
# PATH that record how they were called. Sourced after tap.sh.

# shellcheck disable=SC2154 # `repo` is set by the test
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
secret=0123456789012345678901234567890123456789
mirror_words='"mirror_address": "http://mirror.invalid:8080", "mirror_key": "KEY"'
words="\"internal_interface\": \"lan0\", \"consul_join\": \"192.0.2.31,192.0.2.32\", \"vip\": \"192.0.2.41\", \"domain\": \"stacktira.test\", $mirror_words"
settings=()

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}

metadata() { printf '{"name": "infra1", "meta": {%s}}\n' "$1" >"$root/mnt/config/openstack/latest/meta_data.json"; }

# system ID VERSION CODENAME
system() {
    printf 'ID=%s\nVERSION_ID="%s"\nVERSION_CODENAME=%s\n' "$1" "$2" "${3:-}" >"$root/etc/os-release"
    rm -rf "$root/etc/apt" "$root/etc/yum.repos.d" "$root/etc/dnf"
    if [ "$1" = debian ]; then
        mkdir -p "$root/etc/apt/sources.list.d"
        printf 'deb http://old.invalid/debian %s main\n' "${3:-}" >"$root/etc/apt/sources.list"
    else
        mkdir -p "$root/etc/yum.repos.d" "$root/etc/dnf"
        printf '[base]\nbaseurl=http://old.invalid\ngpgcheck=1\n' >"$root/etc/yum.repos.d/base.repo"
        printf '[main]\ngpgcheck=1\n' >"$root/etc/dnf/dnf.conf"
    fi
}

# A new root with a config drive and secrets. ROLE decides the metadata's role and the secrets.
# shellcheck disable=SC2120
fresh() {
    rm -rf "$root" "${scratch:?}/bin" "$scratch/calls" "$scratch/web"
    mkdir -p "$root/etc" "$root/mnt/config/openstack/latest" "$scratch/bin" "$scratch/web/channel"
    : >"$scratch/calls"
    settings=()
    system debian 12 bookworm
    printf '127.0.0.1 localhost\n127.0.1.1 infra1.stacktira.test infra1\n' >"$root/etc/hosts"
    printf '{"v":1,"channel":"stable","snapshot":"%s"}\n' "$id" >"$scratch/web/channel/stable.json"
    metadata "\"role\": \"${1:-infra}\", $words"
    mkdir -p "$root/etc/stacktira/secrets"
    for name in cluster control hyper mirror management; do printf '%s%s' "$name" "$secret" >"$root/etc/stacktira/secrets/$name"; done
    # shellcheck disable=SC2016 # for the programs to expand
    {
        program apt-get 'echo "apt-get $*" >>"$CALLS"; case " $* " in *" update "*) exit "${APT_UPDATE:-0}" ;; *" install "*) exit "${APT_INSTALL:-0}" ;; esac'
        program apt-cache 'echo "apt-cache $*" >>"$CALLS"; [ "${OFFERED:-yes}" = yes ]'
        program dpkg 'echo "dpkg $*" >>"$CALLS"'
        program dpkg-query 'echo "stacktira 1"'
        program rpm 'echo "stacktira 1"'
        program dnf 'echo "dnf $*" >>"$CALLS"; case " $* " in *" makecache "*) exit "${APT_UPDATE:-0}" ;; *" install "*) exit "${APT_INSTALL:-0}" ;; *" list "*) [ "${OFFERED:-yes}" = yes ] ;; esac'
        program curl 'echo "curl $*" >>"$CALLS"
while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift ;; -w) status=200 ;; http*) url=$1 ;; esac; shift; done
file=$WEB/${url#*://*/}; [ -e "$file" ] || exit 7; cp "$file" "$out" && printf "%s" "${status:-}"'
        program uname 'case ${1:-} in -n) echo "${NODE:-infra1}" ;; *) echo x86_64 ;; esac'
        program ip 'case "$*" in
    *"route show default"*) echo "default via 192.0.2.1 dev ${ROUTE:-lan0}" ;;
    *"dev lo "* | *"dev lo") echo "1: lo inet 127.0.0.1/8 scope host lo" ;;
    *"dev pub0"*) echo "3: pub0 inet 198.51.100.31/25 scope global pub0" ;;
    *"dev lan0"*) echo "2: lan0 inet 192.0.2.31/24 scope global lan0" ;;
    *"dev "*) ;;
    *) echo "2: lan0 inet 192.0.2.31/24 scope global lan0"; echo "3: pub0 inet 198.51.100.31/25 scope global pub0" ;;
esac'
        program consul 'echo "consul $*" >>"$CALLS"; case $1 in version) echo "Consul v${CONSUL_VERSION:-1.20.1}" ;; validate) exit "${VALIDATE:-0}" ;; esac'
        program mount 'echo "mount $*" >>"$CALLS"'
    }
}

# on_node COMMAND...: with the environment of a node.
on_node() {
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" CALLS="$scratch/calls" WEB="$scratch/web" STACKTIRA_ROOT="$root" \
        STACKTIRA_WAIT=0 STACKTIRA_METADATA_WAIT=0 STACKTIRA_METADATA_URL=http://metadata.invalid/meta_data.json "${settings[@]}" "$@"
}
# shellcheck disable=SC2154
bootstrap() { on_node "$repo/provision/bootstrap.sh" "$@"; }

# What the node is made of: everything but what is gone after a restart, and logs.
tree() { (cd "$root" && find . ! -path './run*' ! -path './var/log*' ! -path './mnt/*' \( -type f -printf '%p %m ' -exec sha256sum {} \; -o ! -type f -printf '%p %m\n' \) | sort); }
calls() { grep -cE -- "$1" "$scratch/calls" || true; }
fact_of() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" "$root/etc/facter/facts.d/stacktira.json"; }
