# shellcheck shell=bash
# One namespace is the switch; each node has one of its own, cabled to it. Nothing of the host's network
# is touched, and there is no route from a node to the outside.

network_switch() {
    [ -e "/run/netns/$lan" ] && return 0
    ip netns add "$lan"
    ip -n "$lan" link set lo up
    local bridge
    for bridge in br-int:192.168.242.1/24 br-pub:10.2.3.1/24; do
        ip -n "$lan" link add "${bridge%%:*}" type bridge stp_state 0 forward_delay 0
        ip -n "$lan" addr add "${bridge##*:}" dev "${bridge%%:*}"
        ip -n "$lan" link set "${bridge%%:*}" up
    done
}

network_node() {
    local node=$1 namespace=$prefix-$1
    [ -e "/run/netns/$namespace" ] && return 0
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
    network_cable "$node" int enp0s8 "$(address_of "$node")"
    network_cable "$node" pub enp0s9 "$(outside_of "$node")"
}

network_cable() {
    local node=$1 net=$2 device=$3 address=$4 namespace=$prefix-$1
    ip -n "$namespace" link add "$device" type veth peer name "$node-$net" netns "$lan"
    ip -n "$lan" link set "$node-$net" master "br-$net" up
    ip -n "$namespace" addr add "$address/24" dev "$device"
    ip -n "$namespace" link set "$device" up
}

network_link() {
    local node=$1 way=down
    [ "$2" = heal ] && way=up
    [ -e "/run/netns/$lan" ] || die 1 "the cluster '$prefix' is not up"
    ip -n "$lan" link set "$node-int" "$way" || die 1 "$node has no cable; next: stk-local up $node"
}

network_remove() {
    [ ! -e "/run/netns/$prefix-$1" ] || ip netns del "$prefix-$1"
}

network_remove_switch() {
    [ ! -e "/run/netns/$lan" ] || ip netns del "$lan"
}
