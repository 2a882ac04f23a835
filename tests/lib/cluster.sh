# shellcheck shell=bash
# What the tests of the local environment ask it. Needs `repo`; sets `stk`, `other`.

export STK_LOCAL_PREFIX=${STK_TEST_PREFIX:-stkt}
# Up to Keystone, unless the test is of the whole cloud.
export STK_LOCAL_STAGE=${STK_TEST_STAGE:-identity}
unset STACKTIRA_CONSUL
# shellcheck disable=SC2154 # the test sets it
stk=$repo/provision/local/stk-local
# shellcheck disable=SC2034 # used by the tests
other=${STK_LOCAL_PREFIX}b
test_base=${STK_LOCAL_DIR:-/var/lib/stacktira-local}
test_state=$test_base/$STK_LOCAL_PREFIX
watch_log=
watch_pid=

node() { "$stk" exec "$@"; }

# within SECONDS COMMAND...: it succeeds before they have passed.
within() {
    local end=$((SECONDS + $1)) output code
    shift
    while :; do
        code=0
        output=$("$@" 2>&1) || code=$?
        [ "$code" -ne 0 ] || return 0
        [ $SECONDS -lt $end ] || { printf 'still not: %s (code %s: %s)\n' "$*" "$code" "$output"; return 1; }
        sleep 0.3
    done
}

file_is() { [ "$(cat "$test_state/$1/root$2" 2>/dev/null)" = "$3" ]; }
haproxy_has() { grep -q "$1" "$test_state/proxy1/root/etc/haproxy/haproxy.cfg"; }
haproxy_lacks() { ! haproxy_has "$1"; }
lock_digest() { node "$1" sha256sum /var/lib/stacktira/repos.lock; }

# No run is going on, wanted or waiting to be tried again, for two seconds on end.
idle() { node "$1" ts --queue converge --status --json | grep '"running":null.*"pending":0' >/dev/null; }
settle() { within 300 idle "$1" && sleep 1 && within 300 idle "$1"; }

runs_of() { wc -l <"$test_state/$1/root/var/lib/stacktira/runs"; }

# last_run_covers NODE TIME: the last run began after that time, or left the value that was written then.
last_run_covers() {
    awk -v at="$2" 'END { exit !($1 >= at - 0.5) }' "$test_state/$1/root/var/lib/stacktira/runs"
}

leader_node() {
    local address
    address=$(node infra1 curl -s -m 5 http://127.0.0.1:8500/v1/status/leader | tr -d '"' | cut -d: -f1)
    sed -n "s/^\([a-z0-9]*\) .* $address .*/\1/p" "$repo/provision/nodes.list"
}

another_leader() {
    local asked address
    for asked in infra1 infra2 infra3; do
        [ "$asked" != "$1" ] || continue
        address=$(node "$asked" curl -s -m 5 http://127.0.0.1:8500/v1/status/leader)
        case $address in *:8300*) ;; *) return 1 ;; esac
        [ "$address" != "\"$(sed -n "s/^$1 .* \(192[0-9.]*\) .*/\1/p" "$repo/provision/nodes.list"):8300\"" ]
        return
    done
}

members_alive() { [ "$(node infra2 consul members | grep -c alive)" = "$1" ]; }
no_leader() { [ "$(node infra2 curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:8500/v1/kv/x)" = 500 ]; }
kick_fails() { ! "$stk" kick --wait "$1"; }
kick_succeeds() {
    local code=0
    "$stk" kick --wait "$1" || code=$?
    [ $code = 0 ] || [ $code = 2 ]
}

# A token of the administrator, asked from hyper1 through the proxy.
token_issued() {
    local openrc=$test_state/control1/root/root/openrc password
    password=$(sed -n 's/^export OS_PASSWORD=//p' "$openrc")
    [ "$(printf '{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"admin","domain":{"id":"default"},"password":"%s"}}}}}' "$password" |
        node hyper1 curl -s -m 20 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' --data @- http://192.168.242.41:5000/v3/auth/tokens)" = 201 ]
}

# Looks five times a second for two `puppet apply` in one pid namespace other than the host's. A child between
# fork and exec still looks like its parent, so a process whose parent is one of them does not count.
watch_puppet() {
    local own
    own=$(readlink /proc/self/ns/pid)
    watch_log=$(mktemp)
    (
        trap 'exit 0' TERM
        while :; do
            for process in $(pgrep -f '^/usr/bin/ruby.* /usr/bin/puppet apply' 2>/dev/null); do
                parent=$(awk '/^PPid:/ { print $2 }' "/proc/$process/status" 2>/dev/null) || continue
                case $(tr '\0' ' ' 2>/dev/null <"/proc/$parent/cmdline") in *'puppet apply'*) continue ;; esac
                readlink "/proc/$process/ns/pid" 2>/dev/null || true
            done | { grep -vF "$own" || true; } | sort | uniq -c | awk '{ print "seen", $2 } $1 > 1 { print "overlap", $2 }'
            printf 'memory %s\n' "$(memory_now)"
            sleep 0.2
        done
    ) >"$watch_log" &
    watch_pid=$!
}

memory_now() {
    local group total=0 value
    for group in /sys/fs/cgroup/memory/"$STK_LOCAL_PREFIX"/*/memory.stat /sys/fs/cgroup/"$STK_LOCAL_PREFIX"/*/memory.stat; do
        [ -r "$group" ] || continue
        value=$(awk '$1 == "total_rss" || $1 == "anon" { print int($2 / 1048576) }' "$group" 2>/dev/null || echo 0)
        total=$((total + ${value:-0}))
    done
    printf '%s' "$total"
}

memory_peak() { awk '$1 == "memory" && $2 > peak { peak = $2 } END { print peak + 0 }' "$watch_log"; }
puppet_seen() { grep -c '^seen' "$watch_log"; }
puppet_overlaps() { grep -c '^overlap' "$watch_log" || true; }

stop_watching() {
    [ -z "$watch_pid" ] || { kill "$watch_pid" 2>/dev/null || true; wait "$watch_pid" 2>/dev/null || true; }
    watch_pid=
}

# What a cluster may leave behind on this machine.
host_snapshot() {
    local prefix
    for prefix in "$STK_LOCAL_PREFIX" "$other"; do
        printf 'namespaces: %s\n' "$(find /run/netns -name "$prefix-*" 2>/dev/null | sort | tr '\n' ' ')"
        printf 'mounts: %s\n' "$(grep -c "$test_base/$prefix/" /proc/mounts || true)"
        printf 'cgroups: %s\n' "$(find /sys/fs/cgroup -type d -name "$prefix" 2>/dev/null | sort | tr '\n' ' ')"
        printf 'processes: %s\n' "$(pgrep -fc "$test_base/$prefix/" || true)"
        printf 'state: %s\n' "$(find "$test_base" -maxdepth 1 -name "$prefix*" ! -name "$other*" 2>/dev/null | tr '\n' ' ')"
    done
    printf 'loop devices: %s\n' "$(losetup -a 2>/dev/null | wc -l)"
}

# cleanup [CODE]: the end of a test.
cleanup() {
    local code=${1:-$?}
    stop_watching
    [ -z "$watch_log" ] || rm -f "$watch_log"
    "$stk" destroy >/dev/null 2>&1 || true
    STK_LOCAL_PREFIX=$other "$stk" destroy >/dev/null 2>&1 || true
    exit $code
}

# Settings of this machine's kernel that no node may change; those that count or belong to a namespace are left out.
sysctls() {
    sysctl -a 2>/dev/null | grep -E '^(kernel|vm|fs|net\.core|net\.ipv4\.(ip_forward|conf\.(all|default)))\.?' |
        grep -vE 'random|inode-|aio-nr|quota\.|dentry|file-nr|pty\.nr|ns_last_pid|seccomp|sched_domain|nr_|stat|cap_last|max_lock|boot_id|uuid|poolsize|entropy|drop_caches|numa_stat' | sort
}
