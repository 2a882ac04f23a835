#!/usr/bin/env bash
# The local environment for real: seven nodes come up by themselves, converge, follow changes in Consul,
# survive faults and go without a trace. Prints the seconds of each step.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
trap 'cleanup' EXIT
before_host=$(host_snapshot)
nodes="build1 infra1 infra2 infra3 proxy1 control1 hyper1"

# --- one command brings it up -------------------------------------------------------------------------
ok "up: seven nodes, and a token through the proxy asked from hyper1" "$stk" up
note "$tap_output"
says "the token is 201" '192\.168\.242\.41:5000, asked from hyper1: 201'
watch_puppet

# --- members, no Internet, one signed source, modules by git ------------------------------------------
is "seven members are alive" "$(node infra1 consul members | grep -c alive)" 7
for n in $nodes; do
    is "$n has no default route" "$(node "$n" ip route show default)" ""
    is "$n has exactly one package source, build1" \
        "$(node "$n" apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | sed 's|/snap/.*||')" "http://192.168.242.5:8080"
    ok "$n: its signature is checked" node "$n" grep -q '^Signed-By: ' /etc/apt/sources.list.d/stacktira.sources
done
fails_with 1 "a node cannot reach the outside" node infra1 ping -c 1 -W 1 10.2.3.254
is "every node has the same modules" "$(for n in $nodes; do lock_digest "$n"; done | sort -u | wc -l)" 1
commit=$(node build1 git --git-dir /var/lib/stacktira/mirror/git/github.com/puppetlabs/puppetlabs-stdlib.git rev-parse debian/bookworm)
ok "they are what build1's git has" node control1 grep -q "$commit" /var/lib/stacktira/repos.lock
ok "a wrong key is refused by apt" node infra2 sh -c '
    mkdir -p /tmp/a/lists/partial
    sed "s|^Signed-By: .*|Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg|" /etc/apt/sources.list.d/stacktira.sources >/tmp/a/wrong.sources
    ! apt-get -q -o Dir::Etc::SourceList=/tmp/a/wrong.sources -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=/tmp/a/lists -o APT::Update::Error-Mode=any update'

# --- a second run changes nothing ---------------------------------------------------------------------
for n in $nodes; do settle "$n"; done
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done

# --- one value in Consul changes a file on every node -------------------------------------------------
start=$SECONDS
ok "put one value" node infra1 consul-kv put hiera/common/stacktira::profile::base::motd 'changed by one put'
for n in $nodes; do
    ok "$n has it in its file" within 60 file_is "$n" /etc/motd 'changed by one put'
done
note "on every node after $((SECONDS - start)) s"
is "hiera-consul on the node answers the same" "$(node hyper1 hiera-consul lookup --render-as s stacktira::profile::base::motd)" 'changed by one put'
for n in $nodes; do settle "$n"; done

# --- fifty writes in a second: at most three runs, the last one after the last write ------------------
declare -A runs_before
for n in $nodes; do runs_before[$n]=$(runs_of "$n"); done
ok "fifty writes" node infra1 sh -c 'for i in $(seq 50); do consul-kv put hiera/common/stacktira::profile::base::motd "write $i" || exit 1; done'
last_write=$(node infra1 date +%s.%N)
for n in $nodes; do ok "$n has the last of them" within 60 file_is "$n" /etc/motd 'write 50'; done
for n in $nodes; do
    settle "$n"
    count=$(($(runs_of "$n") - runs_before[$n]))
    ok "$n needed $count runs, at most 3" test "$count" -le 3
    ok "$n: the last one started after the last write, or saw it" last_run_covers "$n" "$last_write"
done

# --- the balancer follows the catalog -----------------------------------------------------------------
start=$SECONDS
ok "register a balanced service" node infra2 consul services register -name=stktest -port=9099 -address=192.168.242.32 -tag=haproxy::balanced
ok "HAProxy has it within 30 s" within 30 haproxy_has 'listen stktest'
note "after $((SECONDS - start)) s"
ok "with one server" within 5 haproxy_has 'server infra2-9099 192.168.242.32:9099'
start=$SECONDS
ok "drop it" node infra2 consul services deregister -id=stktest
ok "HAProxy has dropped it within 30 s" within 30 haproxy_lacks 'listen stktest'
note "after $((SECONDS - start)) s"

# --- faults -------------------------------------------------------------------------------------------
leader=$(leader_node)
ok "power cut of the leader, $leader" "$stk" crash "$leader"
ok "another leader within 60 s" within 60 another_leader "$leader"
ok "$leader is started again" "$stk" up --no-wait "$leader"
ok "and is alive again" within 60 members_alive 7

ok "control1 is cut off" "$stk" cut control1
ok "it leaves the balancer within 60 s" within 60 haproxy_lacks 'listen keystone'
ok "and is healed" "$stk" heal control1
ok "a token is issued again within 90 s" within 90 token_issued

ok "power cut of proxy1 and a server" "$stk" crash proxy1 infra2
ok "both are started again" "$stk" up --no-wait proxy1 infra2
ok "a token is issued again within 120 s" within 120 token_issued
ok "everybody is alive" within 60 members_alive 7

settle proxy1
config_before=$(node proxy1 sha256sum /etc/haproxy/haproxy.cfg)
ok "two of three servers are off" "$stk" crash infra1 infra3
ok "there is no leader" within 60 no_leader
ok "a run fails" kick_fails proxy1
is "nothing was emptied" "$(node proxy1 sha256sum /etc/haproxy/haproxy.cfg)" "$config_before"
ok "tokens are still issued" within 30 token_issued
ok "the servers are started again" "$stk" up --no-wait infra1 infra3
ok "quorum heals" within 90 members_alive 7
ok "and the next run succeeds" within 120 kick_succeeds proxy1

ok "Puppet was seen running $(puppet_seen) times" test "$(puppet_seen)" -gt 50
is "at no time did two Puppet runs overlap on a node" "$(puppet_overlaps)" 0

# --- a second cluster beside it, then nothing is left -------------------------------------------------
ok "a second cluster with another prefix" env STK_LOCAL_PREFIX="$other" "$stk" up build1 infra1 infra2 infra3
is "has members of its own" "$(STK_LOCAL_PREFIX=$other "$stk" exec infra1 consul members | grep -c alive)" 4
is "and the first has kept its seven" "$(node infra1 consul members | grep -c alive)" 7
ok "the second is removed" env STK_LOCAL_PREFIX="$other" "$stk" destroy
ok "a token is issued by the first" within 30 token_issued
note "memory: $(memory_peak) MiB at its peak"
ok "memory stayed below 3 GiB" test "$(memory_peak)" -lt 3072
stop_watching
ok "down" "$stk" destroy
is "no process, mount, namespace, cgroup, loop device or state is left" "$(host_snapshot)" "$before_host"

plan_done
