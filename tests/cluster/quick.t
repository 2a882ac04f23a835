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
# shellcheck source=../lib/rollout.sh
. "$here/../lib/rollout.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
trap 'code=$?; probe_clean; cleanup $code' EXIT
before_host=$(host_snapshot)
nodes="build1 infra1 infra2 infra3 proxy1 control1 hyper1"

# --- one command brings it up -------------------------------------------------------------------------
probe_package st-probe-data 1
probe_package st-probe 1 "st-probe-data (= 1)"
ok "up: seven nodes, and a token through the proxy asked from hyper1" "$stk" up
note "$tap_output"
says "the token is 201" '192\.168\.242\.41:5000, asked from hyper1: 201'
watch_puppet
ok "data name a package for every node" node infra1 consul-kv put hiera/common/stacktira::profile::base::packages '{"st-probe": "latest"}'

# --- members, no Internet, one signed source, modules by git ------------------------------------------
is "seven members are alive" "$(node infra1 consul members | grep -c alive)" 7
for n in $nodes; do
    is "$n has no default route" "$(node "$n" sh -c 'ip route show default; ip -6 route show default')" ""
    is "$n has exactly one package source, build1" \
        "$(node "$n" apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed 's|/snap/.*||' | sort -u)" "http://192.168.242.5:8080"
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

# --- a second run changes nothing, though the source has something new --------------------------------
for n in $nodes; do ok "$n has the package" within 300 probe_is "$n" 1; done
for n in $nodes; do settle "$n"; done
first=$(channel_now)
probe_package st-probe-data 2
probe_package st-probe 2 "st-probe-data (= 2)"
ok "the upstream of the mirror's git can be changed" own_git
ok "a new commit of a module" module_commit 2
ok "they are taken in" new_snapshot
second=$(printf '%s\n' "$tap_output" | tail -n 1)
is "as another snapshot, to which the channel does not point" "$(channel_now) $([ "$second" != "$first" ] && echo another)" "$first another"
fails_with 1 "and it is said what is new" "$stk" mirror diff "$first" "$second"
says "a package" 'st-probe'
says "and a commit" 'github.com/puppetlabs/puppetlabs-translate.git'
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done
for n in $nodes; do
    is "$n is as it was" "$(snapshot_of "$n") $(probe_on "$n")" "$first ii1"
    ok "and so are its modules" module_is "$n"
done

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

# --- what is new goes out in stages, and what is broken comes back by itself ---------------------------
for n in $nodes; do settle "$n"; done
for n in $nodes; do runs_before[$n]=$(runs_of "$n"); done
start=$SECONDS
plan=$(rollout "$second" --dry-run)
is "three stages, hyper1 first" "$(printf '%s\n' "$plan" | sed -n 1p), $(printf '%s\n' "$plan" | wc -l) stages" "canary hyper1, 3 stages"
ok "the new version is rolled out" rollout "$second"
note "in $((SECONDS - start)) s"
is "the channel points at it" "$(channel_now)" "$second"
ok "hyper1 had it first, then half of the others, then all" rollout_in_order 2
for n in $nodes; do
    ok "$n has the new version" probe_is "$n" 2
    ok "and the new commit" module_is "$n" 2
done
for n in $nodes; do
    settle "$n"
    count=$(($(runs_of "$n") - runs_before[$n]))
    ok "$n needed $count runs, at most 2: the steps of others ask it for none" test "$count" -le 2
    runs_before[$n]=$(runs_of "$n")
done
probe_package st-probe-data 3
probe_package st-probe 3 "st-probe-data (= 3)" 'echo "does not work here" >&2; exit 1' postinst
ok "a commit, and a version that does not work" module_commit 3
ok "are taken in" new_snapshot
third=$(printf '%s\n' "$tap_output" | tail -n 1)
start=$SECONDS
fails_with 1 "it stops at the canary, and goes back" rollout "$third"
says "because of it" "went back: a run with the snapshot failed on hyper1"
ok "hyper1 has what it had before, by itself" within 300 probe_is hyper1 2
ok "also of what came along with it" probe_is hyper1 2 st-probe-data
ok "and of git" within 60 module_is hyper1 2
note "after $((SECONDS - start)) s"
is "dpkg finds nothing amiss" "$(node hyper1 dpkg --audit)" ""
is "apt has the lists of one snapshot" "$(find "$test_state/hyper1/root/var/lib/apt/lists" -name '*_snap_*' | sed 's/.*_snap_//; s/_.*//' | sort -u)" "$second"
settle hyper1
fails_with 0 "a run has nothing to do" "$stk" kick --wait hyper1
for n in $nodes; do
    [ "$n" = hyper1 ] || is "$n was asked for no run" "$(($(runs_of "$n") - runs_before[$n]))" 0
    is "$n is with the others, and had what it should" "$(snapshot_of "$n") $(published_mirror "$n") $(probe_ever "$n")" \
        "$second $second 1 2$([ "$n" != hyper1 ] || echo ' 3 2')"
done
is "the channel points where it did" "$(channel_now)" "$second"
start=$SECONDS
ok "one node is pinned to the first snapshot" "$stk" mirror promote "$first" --node hyper1
ok "and goes there by itself" within 60 probe_is hyper1 1
ok "with its modules" within 60 module_is hyper1
ok "the pin is removed" "$stk" mirror unpin --node hyper1
ok "and it comes back" within 60 probe_is hyper1 2
note "after $((SECONDS - start)) s"
settle hyper1

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
