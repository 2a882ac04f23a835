#!/usr/bin/env bash
# Two control nodes for real: what is to be done once is done once, and the cloud answers when either of them dies.
# Takes a quarter of an hour on two idle cores, 8 GB of memory and 10 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
export STK_LOCAL_NODES=$repo/provision/local/two-controls.list
STK_TEST_STAGE=cloud
STK_TEST_PREFIX=${STK_TEST_PREFIX:-stkc}
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
# shellcheck source=../lib/cloud.sh
. "$here/../lib/cloud.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
reports=$(mktemp -d)
gatherer=
finish() {
    local code=$?
    [ -z "$gatherer" ] || kill "$gatherer" 2>/dev/null || true
    rm -rf "$reports"
    cleanup $code
}
trap finish EXIT
nodes="build1 infra1 infra2 infra3 proxy1 control1 control2 hyper1"

# Puppet names a report by the minute and replaces an older one: each is kept under its inode.
gather() {
    local n file
    for n in control1 control2; do
        for file in "$test_state/$n"/root/var/cache/puppet/reports/*/*.yaml; do
            [ ! -s "$file" ] || cp -n "$file" "$reports/$n-$(stat -c %i-%Y "$file").yaml" 2>/dev/null || true
        done
    done
}
done_once() {
    gather
    local file arguments=()
    for file in "$reports"/*.yaml; do arguments+=("$(basename "$file" | cut -d- -f1)=$file"); done
    ruby "$repo/tests/lib/done-once.rb" "${arguments[@]}"
}
database() { node "$1" mysql -N -e "SHOW STATUS LIKE '$2'" | awk '{ print $2 }'; }
members_are() { [ "$(database "$1" wsrep_cluster_size)" = "$2" ] && [ "$(database "$1" wsrep_local_state_comment)" = Synced ]; }
brokers_are() { [ "$(node "$1" rabbitmqctl -q cluster_status --formatter json | ruby -rjson -e 'puts JSON.parse($stdin.read)["running_nodes"].size')" = "$2" ]; }
answers() { token_issued && tokens_and_servers >/dev/null; }
services_of() { [ "$(cloud compute service list -f value -c Binary -c Host -c State | grep -c ' up$')" = "$1" ]; }

# --- up -----------------------------------------------------------------------------------------------
ok "what is made once is there" "$stk" prepare
while :; do gather; sleep 2; done &
gatherer=$!
start=$SECONDS
figure "load of this machine at the start" "$(load_now)"
ok "up: eight nodes and a cloud" "$stk" up
note "$tap_output"
figure "two control nodes and a hypervisor after" "$((SECONDS - start)) s"
elected=$(node infra1 consul-elect show control | cut -d' ' -f1)
case $elected in control1) second=control2 ;; *) second=control1 ;; esac
note "elected: $elected"
asked=$elected
ok "a server lives" simplenova --no-floating
note "$tap_output"
figure "a server's life was proven after" "$((SECONDS - start)) s"
figure "processor seconds of all nodes until then" "$(cpu_now) s"
figure "memory of all nodes" "$(memory_now) MiB"

# --- one of each --------------------------------------------------------------------------------------
for n in $nodes; do settle "$n"; done
ok "two databases and the arbitrator are one cluster" within 120 members_are "$second" 3
ok "two brokers are one cluster" within 60 brokers_are "$second" 2
ok "conductor and scheduler are up twice, compute once" within 60 services_of 5
for service in keystone placement nova-api neutron-server; do
    is "the proxies have two of $service" "$(sed -n "/^listen $service\$/,/^\$/p" "$test_state/proxy1/root/etc/haproxy/haproxy.cfg" | grep -c '^  server control[12]-')" 2
done
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done

once=$(done_once)
note "$once"
is "$second did nothing of what is to be done once" "$(printf '%s\n' "$once" | awk -v node="$second" '$2 == node')" ""
is "$elected did none of it twice" "$(printf '%s\n' "$once" | awk '$1 != 1')" ""
for work in keystone-manage glance-manage placement nova-db-sync-api nova-db-sync neutron-db-sync 'form the database' Keystone_user/nova; do
    ok "and did it: $work" grep -Eq "^1 $elected .*${work/\//\\[}" <(printf '%s\n' "$once")
done
figure "kinds of one-time work, each done once" "$(printf '%s\n' "$once" | wc -l)"

# --- the elected node dies ----------------------------------------------------------------------------
start=$SECONDS
ok "power cut of $elected" "$stk" crash "$elected"
asked=$second
ok "a token is issued and the servers are listed through the proxy" within 180 answers
figure "with $elected dead: token and server list after" "$((SECONDS - start)) s"
ok "ten times in a row" sh -c ': && '"$(declare -f node cloud tokens_and_servers); stk=$stk; asked=$asked; for i in 1 2 3 4 5 6 7 8 9 10; do tokens_and_servers >/dev/null || exit 1; done"
ok "the database goes on with the arbitrator's vote" within 60 members_are "$second" 2

# --- and comes back -----------------------------------------------------------------------------------
start=$SECONDS
ok "$elected is started again" "$stk" up --no-wait "$elected"
ok "its database joins" within 300 members_are "$elected" 3
ok "its broker joins" within 300 brokers_are "$elected" 2
ok "conductor and scheduler are up twice again" within 300 services_of 5
figure "$elected is a full member again after" "$((SECONDS - start)) s"
settle "$elected"

# --- the other one dies -------------------------------------------------------------------------------
start=$SECONDS
ok "power cut of $second" "$stk" crash "$second"
asked=$elected
ok "a token is issued and the servers are listed through the proxy" within 180 answers
figure "with $second dead: token and server list after" "$((SECONDS - start)) s"
ok "$second is started again" "$stk" up --no-wait "$second"
ok "its database joins" within 300 members_are "$second" 3
for n in control1 control2; do settle "$n"; done
for n in control1 control2; do fails_with 0 "$n: a run has nothing to do" "$stk" kick --wait "$n"; done
is "nothing was done a second time" "$(done_once)" "$once"

kill $gatherer 2>/dev/null || true
gatherer=
ok "down" "$stk" destroy
print_figures
plan_done
