#!/usr/bin/env bash
# Boots a server in an OpenStack cloud and proves that it lives: image, flavor, network, server ACTIVE, ping from
# its DHCP server, its console read, metadata answered, a floating IP reached. Waits for conditions, says which
# one did not come and why, and can be run again.
set -euo pipefail

name=simplenova
image_dir=/srv/guest
external=public
external_range=10.2.3.0/24
external_pool=10.2.3.100-10.2.3.199
external_gateway=10.2.3.1
deadline=300
floating=yes
config_drive=no
delete=no

usage() {
    cat <<'END'
Usage: simplenova.sh [OPTION...]

Run it where the cloud's administrator is in the environment (OS_AUTH_URL and so on) or in /root/openrc; the ping from
the DHCP server is tried only on the node that Neutron has given it to (the network node).

  --name NAME            name of the server (default: simplenova)
  --image-dir DIR        vmlinuz, initramfs and disk of the test guest (default: /srv/guest)
  --external PHYSNET     physical network of the floating addresses (default: public)
  --external-range CIDR  its addresses (default: 10.2.3.0/24)
  --external-pool A-B    those that may be given out (default: 10.2.3.100-10.2.3.199)
  --external-gateway IP  its gateway (default: 10.2.3.1)
  --no-floating          no router and no floating address
  --config-drive         give the server a config drive
  --timeout SECONDS      for each condition that is waited for (default: 300)
  --delete               remove what a run with the same name made, and nothing else
  --help

Exit status: 0 the server lives   1 it does not; the reason is said   2 usage   69 no cloud answers
END
}

say() { printf 'simplenova: %s\n' "$*" >&2; }
die() {
    local code=$1
    shift
    say "error: $*"
    exit "$code"
}

while [ $# -gt 0 ]; do
    case $1 in
        --name | --image-dir | --external | --external-range | --external-pool | --external-gateway | --timeout)
            [ $# -ge 2 ] || { say "error: $1 needs a value"; exit 2; }
            case $1 in
                --name) name=$2 ;;
                --image-dir) image_dir=$2 ;;
                --external) external=$2 ;;
                --external-range) external_range=$2 ;;
                --external-pool) external_pool=$2 ;;
                --external-gateway) external_gateway=$2 ;;
                --timeout) deadline=$2 ;;
            esac
            shift 2
            ;;
        --no-floating) floating=no; shift ;;
        --config-drive) config_drive=yes; shift ;;
        --delete) delete=yes; shift ;;
        --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown argument: $1" ;;
    esac
done
[[ $name =~ ^[a-z][a-z0-9-]{0,40}$ ]] || die 2 "--name must be small letters, digits and -, beginning with a letter: '$name'"
[[ $deadline =~ ^[1-9][0-9]{0,4}$ ]] || die 2 "--timeout must be seconds: '$deadline'"

if [ -z "${OS_AUTH_URL:-}${OS_CLOUD:-}" ]; then
    [ -r /root/openrc ] || die 2 "no administrator: neither OS_AUTH_URL nor OS_CLOUD is set, and /root/openrc cannot be read"
    # shellcheck disable=SC1091 # written by Puppet on the node
    . /root/openrc
fi
# Where Stacktira is installed the client is imported once, not with each call.
[ ! -x /opt/stacktira/provision/puppet/bin/openstack ] || PATH=/opt/stacktira/provision/puppet/bin:$PATH
command -v openstack >/dev/null || die 2 "the openstack client is not installed; next: apt-get install python3-openstackclient"

start=$SECONDS
lap() { printf '%5ss  %s\n' $((SECONDS - start)) "$*"; }

# within WHAT COMMAND...: until it succeeds; what it said last is the reason when it does not.
within() {
    local what=$1 end=$((SECONDS + deadline)) said
    shift
    until said=$("$@" 2>&1); do
        [ $SECONDS -lt $end ] || die 1 "$what: not after $deadline s: $(printf '%s' "$said" | tail -n 3 | tr '\n' ' ')"
        sleep 2
    done
}

has() { openstack "$1" show "$2" -f value -c id >/dev/null 2>&1; }
quietly() { openstack "$@" -f value -c id >/dev/null; }
address_on() { openstack port list --server "$name" -f json | python3 -c 'import json, sys
print(json.load(sys.stdin)[0]["Fixed IP Addresses"][0]["ip_address"])'; }

remove() {
    local kind=$1 what=$2
    has "$kind" "$what" || return 0
    openstack "$kind" delete "$what"
    lap "$kind $what deleted"
}

if [ $delete = yes ]; then
    if has server "$name"; then
        openstack server delete --wait "$name"
        lap "server $name deleted"
    fi
    for address in $(openstack floating ip list --tags "$name" -f value -c ID); do openstack floating ip delete "$address"; done
    if has router "$name"; then
        openstack router unset --external-gateway "$name"
        openstack router remove subnet "$name" "$name" 2>/dev/null || true
    fi
    for kind in router network "security group" flavor image; do
        # shellcheck disable=SC2086 # two words are two arguments
        case $kind in
            'security group') openstack security group delete "$name" 2>/dev/null || true ;;
            image) for part in "$name" "$name-kernel" "$name-ramdisk"; do remove image "$part"; done ;;
            *) remove $kind "$name" ;;
        esac
    done
    exit 0
fi

within "Keystone issues a token" openstack token issue -f value -c expires

image_part() {
    local part=$1 format=$2 file=$3
    [ -r "$image_dir/$file" ] || die 2 "there is no $image_dir/$file; next: give --image-dir"
    has image "$part" || openstack image create --public --disk-format "$format" --container-format "$format" --file "$image_dir/$file" "$part" -f value -c id >/dev/null
    [ "$(openstack image show "$part" -f value -c status)" = active ] || die 1 "the image $part is not active"
}
image_part "$name-kernel" aki vmlinuz
image_part "$name-ramdisk" ari initramfs
if ! has image "$name"; then
    [ -r "$image_dir/disk" ] || die 2 "there is no $image_dir/disk; next: give --image-dir"
    # An emulated timer that comes late, on a busy machine, is no reason for the guest's kernel to give up.
    openstack image create --public --disk-format raw --container-format bare --file "$image_dir/disk" \
        --property kernel_id="$(openstack image show "$name-kernel" -f value -c id)" \
        --property ramdisk_id="$(openstack image show "$name-ramdisk" -f value -c id)" \
        --property os_command_line='console=ttyS0 no_timer_check panic=5' "$name" -f value -c id >/dev/null
fi
lap "image $name is active"

has flavor "$name" || quietly flavor create --ram 128 --disk 0 --vcpus 1 "$name"
has network "$name" || quietly network create "$name"
has subnet "$name" || quietly subnet create --network "$name" --subnet-range 10.0.0.0/24 "$name"
if ! openstack security group show "$name" >/dev/null 2>&1; then
    quietly security group create "$name"
    quietly security group rule create --protocol icmp "$name"
    quietly security group rule create --protocol tcp --dst-port 22 "$name"
fi
lap "network $name 10.0.0.0/24"

within "a hypervisor is up" sh -c 'openstack hypervisor list -f value -c State | grep -x up'
if ! has server "$name"; then
    options=()
    [ $config_drive = no ] || options+=(--config-drive true)
    quietly server create --flavor "$name" --image "$name" --network "$name" --security-group "$name" "${options[@]}" "$name"
fi
settled() {
    case $(openstack server show "$name" -f value -c status) in
        ACTIVE) ;;
        ERROR) die 1 "the server is in ERROR: $(openstack server show "$name" -f json -c fault | tr -d '\n' | cut -c1-600)" ;;
        *) return 1 ;;
    esac
}
end=$((SECONDS + deadline))
until settled; do
    [ $SECONDS -lt $end ] || die 1 "the server is $(openstack server show "$name" -f value -c status) after $deadline s, not ACTIVE"
    sleep 2
done
lap "server $name is ACTIVE on $(openstack server show "$name" -f value -c OS-EXT-SRV-ATTR:host)"

address=$(address_on)
namespace=qdhcp-$(openstack network show "$name" -f value -c id)
dhcp_host() { openstack network agent list --network "$name" -f value -c Host | grep .; }
within "the network $name has a DHCP server" dhcp_host
if dhcp_host | sed 's/[.].*//' | grep -x "$(uname -n | sed 's/[.].*//')" >/dev/null; then
    within "the DHCP server's network namespace is here" test -e "/run/netns/$namespace"
    within "$address answers a ping from its DHCP server" ip netns exec "$namespace" ping -c 1 -W 2 "$address"
    lap "$address answers: $(ip netns exec "$namespace" ping -c 3 -W 2 "$address" | sed -n 's/.*\(received, .*loss\).*/\1/p')"
fi
console_says() { openstack console log show "$name" | grep -a "$1"; }
within "the console says that the guest is ready" console_says 'STACKTIRA ready'
lap "console: $(console_says "STACKTIRA address" | tail -n 1 | tr -d '\r')"
console_says 'STACKTIRA metadata i-' >/dev/null || die 1 "the metadata service did not answer the guest; next: openstack console log show $name"
lap "console: $(console_says 'STACKTIRA metadata' | tail -n 1 | tr -d '\r')"

if [ $floating = yes ]; then
    if ! has network "$external"; then
        quietly network create --external --share --provider-network-type flat --provider-physical-network "$external" "$external"
    fi
    has subnet "$external" || quietly subnet create --network "$external" --subnet-range "$external_range" --no-dhcp \
        --gateway "$external_gateway" --allocation-pool "start=${external_pool%-*},end=${external_pool#*-}" "$external"
    if ! has router "$name"; then
        quietly router create "$name"
        openstack router set --external-gateway "$external" "$name"
        openstack router add subnet "$name" "$name"
    fi
    given=$(openstack floating ip list --tags "$name" -f value -c 'Floating IP Address')
    if [ -z "$given" ]; then
        given=$(openstack floating ip create --tag "$name" "$external" -f value -c floating_ip_address)
        openstack server add floating ip "$name" "$given"
    fi
    within "the floating address $given answers a ping" ping -c 1 -W 2 "$given"
    lap "floating address $given answers: $(ping -c 3 -W 2 "$given" | sed -n 's/.*\(received, .*loss\).*/\1/p')"
fi
lap "done: the server $name lives"
