#!/usr/bin/env bash
# Up to Keystone, for real: six orders of start end in the same state, and a first run whose Puppet is killed at five
# points gets there too. Takes a quarter of an hour on two idle cores. The orders follow from STK_TEST_SEED; STK_TEST_ORDERS
# is how many there are.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
STK_TEST_STAGE=identity
STK_TEST_PREFIX=${STK_TEST_PREFIX:-stko}
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
# shellcheck source=../lib/cloud.sh
. "$here/../lib/cloud.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
plan=$(mktemp)
finish() {
    local code=$?
    rm -f "$plan"
    cleanup $code
}
trap finish EXIT
seed=${STK_TEST_SEED:-1}
orders=${STK_TEST_ORDERS:-6}
nodes="build1 infra1 infra2 infra3 proxy1 control1 hyper1"

# What a seed determines.
shuffled() {
    for n in $nodes; do printf '%s\n' "$n"; done |
        awk -v seed="$1" 'BEGIN { srand(seed) } { printf "%.9f %d %s\n", rand(), rand() * 6, $0 }' | sort | cut -d' ' -f2-
}

# What a cluster has become, without what has to differ from one to the next: passwords, keys, ids and times.
end_state() {
    local n
    for n in $nodes; do
        printf '%s: packages %s\n' "$n" "$(node "$n" dpkg-query -W -f '${Package} ${Version} ${Status}\n' | sha256sum | cut -c1-16)"
        printf '%s: modules %s\n' "$n" "$(lock_digest "$n" | cut -c1-16)"
        printf '%s: mirror %s\n' "$n" "$(node "$n" sed -n 's|.*/snap/\([0-9a-f]*\).*|\1|p' /etc/apt/sources.list.d/stacktira.sources | sort -u)"
        printf '%s: watches %s\n' "$n" "$(node "$n" sha256sum /etc/stacktira/watch.yaml | cut -c1-16)"
        printf '%s: failed units %s\n' "$n" "$(node "$n" systemctl list-units --state=failed --plain --no-legend | awk '{ print $1 }' | tr '\n' ' ')"
    done
    printf 'haproxy %s\n' "$(node proxy1 sha256sum /etc/haproxy/haproxy.cfg | cut -c1-16)"
    printf 'keystone %s\n' "$(node control1 sed -e 's|://keystone:[^@]*@|://keystone:x@|' -e '/^[#[:space:]]/d' /etc/keystone/keystone.conf | sha256sum | cut -c1-16)"
    printf 'client %s\n' "$(node hyper1 sha256sum /etc/openstack/clouds.yaml | cut -c1-16)"
    printf 'elected %s\n' "$(node infra1 consul-elect show control | cut -d' ' -f1)"
    printf 'services %s\n' "$(node infra1 consul catalog services | tr '\n' ' ')"
    cloud endpoint list -f value -c 'Service Name' -c Interface -c URL | sort
    cloud user list -f value -c Name | sort
}

first=
for number in $(seq "$orders"); do
    # Each node with the seconds that pass after it.
    shuffled $((seed * 1000 + number)) >"$plan"
    order=$(cut -d' ' -f2 "$plan" | tr '\n' ' ')
    start=$SECONDS
    code=0
    while read -r pause n; do
        "$stk" up --no-wait "$n" >/dev/null </dev/null || code=$?
        sleep "$pause"
    done <"$plan"
    is "order $number starts: $order" "$code" 0
    ok "and every node converges" "$stk" up
    figure "order $number ($order)" "$((SECONDS - start)) s"
    for n in $nodes; do settle "$n"; done
    for n in $nodes; do fails_with 0 "order $number, $n: a second run has nothing to do" "$stk" kick --wait "$n"; done
    state=$(end_state)
    [ -n "$first" ] || { first=$state; note "$state"; }
    is "order $number ends in the same state as the first" "$state" "$first"
    ok "and is removed" "$stk" destroy
done

# --- Puppet is killed ---------------------------------------------------------------------------------
# Each point is a process that is there at that time of the first run: a kill for each, in the order in which they come.
running() { node control1 pgrep -f "$1" >/dev/null; }
kill_puppet_at() {
    local what=$1 end=$((SECONDS + 300))
    until running "$what" && node control1 pkill -KILL -f '^/usr/bin/ruby.* /usr/bin/puppet apply'; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
start=$SECONDS
ok "a cluster starts" "$stk" up --no-wait
ok "control1 gets as far as its first run" within 300 running '/usr/bin/puppet apply'
sleep 2
ok "Puppet is killed while it compiles" kill_puppet_at '/usr/bin/puppet apply'
ok "and when the database is up" kill_puppet_at '/usr/sbin/mariadbd'
ok "and while the schema is made" kill_puppet_at 'keystone-manage.* db_sync'
ok "and while Keystone gets its first users" kill_puppet_at 'keystone-manage.* bootstrap'
ok "and while users and endpoints are written" kill_puppet_at 'bin/openstack (user|role|project|service|endpoint) '
ok "the cluster converges" "$stk" up
figure "Puppet killed at five points of the first run of control1" "$((SECONDS - start)) s"
is "five runs were cut off" "$(awk '$2 == 137' "$test_state/control1/root/var/lib/stacktira/runs" | wc -l)" 5
for n in $nodes; do settle "$n"; done
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done
[ -z "$first" ] || is "the state is that of a cluster where nobody was killed" "$(end_state)" "$first"
ok "down" "$stk" destroy

print_figures
plan_done
