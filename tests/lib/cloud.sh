# shellcheck shell=bash
# What the tests of the showcase ask its cloud, and the table of figures that they print. Needs lib/cluster.sh.

# Asked on the control node that $asked names.
asked=control1
cloud() { node "$asked" sh -c '. /root/openrc && PATH=/opt/stacktira/provision/puppet/bin:$PATH exec openstack "$@"' openstack "$@"; }
simplenova() { "$stk" server "$@"; }
services_up() { [ "$(cloud compute service list -f value -c Binary -c State | sort -u | tr '\n' ' ')" = 'nova-compute up nova-conductor up nova-scheduler up ' ]; }
agents_alive() { [ "$(cloud network agent list -f json | grep -c '"Alive": true')" = "$1" ]; }
tokens_and_servers() { cloud token issue -f value -c expires && cloud server list -f value -c Name | grep -x simplenova; }

# Processor seconds of all nodes since they were made: what a busy machine does not change.
cpu_now() {
    local group
    for group in /sys/fs/cgroup/cpuacct/"$STK_LOCAL_PREFIX"/*/cpuacct.usage; do
        [ ! -r "$group" ] || awk '{ print $1 / 1e9 }' "$group"
    done | awk '{ sum += $1 } END { printf "%d", sum }'
    for group in /sys/fs/cgroup/"$STK_LOCAL_PREFIX"/*/cpu.stat; do
        [ ! -r "$group" ] || awk '$1 == "usage_usec" { print $2 / 1e6 }' "$group"
    done | awk '{ sum += $1 } END { if (NR) printf "%d", sum }'
}

load_now() { cut -d' ' -f1 /proc/loadavg; }

# figure WHAT VALUE: one line of the table.
figures=
figure() {
    figures="$figures$(printf '%-62s %s' "$1" "$2")
"
    note "$1: $2"
}

print_figures() {
    note "table ($(nproc) cores)"
    printf '%s' "$figures" | sed 's/^/#   /'
}

# The seconds of a lap that `up` or simplenova printed.
lap_of() { sed -n "s/^ *\([0-9.]*\)s  $1.*/\1/p" | sed -n 1p; }
