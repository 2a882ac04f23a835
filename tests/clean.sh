#!/usr/bin/env bash
# Removes what tests made: the Vagrantfile's machines, or servers and networks in an OpenStack cloud.
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
repo=$(cd "$here/.." && pwd)

usage() {
    cat <<'EOT'
Usage: tests/clean.sh vagrant
       tests/clean.sh openstack [--prefix NAME] [--dry-run]

  vagrant        destroy the machines of the Vagrantfile; boxes, keys and packages stay
  openstack      delete in the cloud of OS_* or OS_CLOUD what has a name beginning with the prefix: servers, floating
                 addresses of their ports, routers, networks, security groups, key pairs, images, flavors
  --prefix NAME  at least four characters (default: stacktira-test)
  --dry-run      print what would be deleted

Exit status: 0 nothing is left   1 something could not be deleted   2 usage   69 a program is missing

Examples:
  tests/clean.sh vagrant
  OS_CLOUD=lab tests/clean.sh openstack --dry-run
EOT
}

say() { printf 'clean.sh: %s\n' "$*" >&2; }

die() {
    local code=$1
    shift
    say "error: $*"
    exit "$code"
}

need() { command -v "$1" >/dev/null || die 69 "$1 is not here"; }

clean_vagrant() {
    [ $# -eq 0 ] || die 2 "unknown argument: $1"
    need vagrant
    cd "$repo"
    timeout 600 vagrant destroy --force </dev/null
    local left
    left=$(vagrant status --machine-readable | awk -F, '$3 == "state" && $4 != "not_created" { print $2 }' | paste -sd' ')
    [ -z "$left" ] || die 1 "still there: $left"
}

prefix=stacktira-test
dry=no
failed=0

cloud() { timeout 120 openstack "$@" </dev/null; }

# Lists "id name" of one kind whose names begin with the prefix.
found() {
    local kind=$1 columns=(-c ID -c Name)
    # A key pair has no id.
    [ "$kind" != keypair ] || columns=(-c Name)
    # shellcheck disable=SC2086 # `security group` is two words
    cloud $kind list -f value "${columns[@]}" | awk -v prefix="$prefix" 'index($NF, prefix) == 1 { print $1, $NF }'
}

remove() {
    local what=$1
    shift
    if [ "$dry" = yes ]; then
        printf '%s\n' "$what"
    elif cloud "$@" >&2; then
        say "deleted: $what"
    else
        failed=1
        say "error: could not be deleted: $what"
    fi
}

remove_all() {
    local kind=$1 id name list
    shift
    list=$(found "$kind") || die 1 "openstack $kind list failed"
    while read -r id name; do
        # shellcheck disable=SC2086 # `security group` is two words
        [ -z "$id" ] || remove "$kind $name" $kind delete "$@" "$id"
    done <<<"$list"
}

# Floating addresses have no names: those of the ports of our servers.
remove_floating() {
    local server name address addresses
    while read -r server name; do
        [ -n "$server" ] || continue
        addresses=$(cloud port list --server "$server" -f value -c ID | while read -r port; do
            cloud floating ip list --port "$port" -f value -c ID
        done) || die 1 "openstack floating ip list failed"
        for address in $addresses; do remove "floating ip of $name" floating ip delete "$address"; done
    done <<<"$(found server)"
}

# A router is deleted when its subnets are taken off.
remove_routers() {
    local router name subnet subnets
    while read -r router name; do
        [ -n "$router" ] || continue
        subnets=$(cloud port list --router "$router" -f json -c 'Fixed IP Addresses' | grep -o '"subnet_id": *"[^"]*"' | sed 's/.*"\([^"]*\)"$/\1/' | sort -u || true)
        for subnet in $subnets; do remove "subnet of router $name" router remove subnet "$router" "$subnet"; done
        remove "router $name" router delete "$router"
    done <<<"$(found router)"
}

clean_openstack() {
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix)
                # An empty or short one would delete what is not ours.
                [[ ${2:-} =~ ^[A-Za-z0-9_-]{4,}$ ]] || die 2 "--prefix needs a name of at least four characters"
                prefix=$2
                shift
                ;;
            --dry-run) dry=yes ;;
            *) die 2 "unknown argument: $1" ;;
        esac
        shift
    done
    need openstack
    [ -n "${OS_CLOUD:-}${OS_AUTH_URL:-}" ] || die 2 "which cloud? next: set OS_CLOUD, or source an openrc file"
    remove_floating
    remove_all server --wait
    remove_routers
    remove_all network
    remove_all 'security group'
    remove_all keypair
    remove_all image
    remove_all flavor
    [ $failed = 0 ] || die 1 "something is left; the lines above say what"
}

case ${1:-} in
    vagrant) shift; clean_vagrant "$@" ;;
    openstack) shift; clean_openstack "$@" ;;
    --help) usage ;;
    '') usage >&2; die 2 "say what to clean" ;;
    *) usage >&2; die 2 "unknown: $1" ;;
esac
