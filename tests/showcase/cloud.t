#!/usr/bin/env bash
# The showcase for real: OpenStack from Consul's data on seven nodes, until a server answers a ping; then again,
# after faults. Takes a quarter of an hour on two idle cores, 5 GB of memory and 6 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
STK_TEST_STAGE=cloud
STK_TEST_PREFIX=${STK_TEST_PREFIX:-stks}
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
trap 'cleanup' EXIT
before_host=$(host_snapshot)
sysctls_before=$(sysctls)
nodes="build1 infra1 infra2 infra3 proxy1 control1 hyper1"

cloud() { node control1 sh -c '. /root/openrc && exec openstack "$@"' openstack "$@"; }
simplenova() { node control1 bash /vagrant/tests/simplenova.sh "$@"; }
services_up() { [ "$(cloud compute service list -f value -c Binary -c State | sort | tr '\n' ' ')" = 'nova-compute up nova-conductor up nova-scheduler up ' ]; }
agents_alive() { [ "$(cloud network agent list -f json | grep -c '"Alive": true')" = "$1" ]; }

# --- one command brings it up -------------------------------------------------------------------------
start=$SECONDS
ok "up: seven nodes and a cloud" "$stk" up
note "$tap_output"
ok "a server lives" simplenova
note "$tap_output"
says "its DHCP server reaches it" 'answers: received, 0% packet loss'
says "its console is read" 'console: STACKTIRA address 10\.0\.0\.'
says "metadata was answered" 'console: STACKTIRA metadata i-'
says "its floating address answers" 'floating address 10\.2\.3\.[0-9]* answers'
note "a server that answers after $((SECONDS - start)) s"
floating=$(cloud floating ip list --tags simplenova -f value -c 'Floating IP Address')
ok "infra1 reaches the floating address $floating" node infra1 ping -c 3 -W 2 "$floating"

# --- what is there ------------------------------------------------------------------------------------
ok "conductor, scheduler and compute are up" within 60 services_up
ok "five network agents are alive" within 60 agents_alive 5
is "hyper1 is the hypervisor" "$(cloud hypervisor list -f value -c 'Hypervisor Hostname' | cut -d. -f1)" hyper1
is "five services have three endpoints each" "$(cloud endpoint list -f value -c 'Service Name' | sort | uniq -c | awk '{ print $2 $1 }' | tr '\n' ' ')" \
    'glance3 keystone3 neutron3 nova3 placement3 '
for service in keystone glance-api placement nova-api nova-metadata neutron-server; do
    ok "the proxies balance $service" haproxy_has "^listen $service"
done
is "every package source is build1" "$(for n in $nodes; do node "$n" apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed 's|/snap/.*||'; done | sort -u)" "http://192.168.242.5:8080"
is "no Hiera key is dead" "$(node control1 sh -c 'ruby /vagrant/tests/lib/hiera-keys.rb /opt/stacktira/provision/puppet/site-modules:/var/lib/stacktira/puppet/modules $(find /opt/stacktira/provision/puppet/data -name "*.yaml") | tail -n 1 | sed "s/.*, //"')" '0 dead'
is "passwords are nobody else's to read" "$(node control1 stat -c '%a %U' /root/openrc)" '600 root'

# --- it stays as it is --------------------------------------------------------------------------------
for n in $nodes; do settle "$n"; done
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done
note "an unchanged run of control1 took $(node control1 sed -n 's/.*"duration": \([0-9]*\).*/\1/p' /var/lib/stacktira/run.json) s"

# --- power cut of the hypervisor, reboot of the control node ------------------------------------------
ok "power cut of hyper1" "$stk" crash hyper1
ok "clean halt of control1" "$stk" halt control1
ok "both are started again" "$stk" up --no-wait control1 hyper1
ok "a token is issued" within 180 token_issued
ok "the compute services are up again" within 180 services_up
ok "the network agents are alive again" within 180 agents_alive 5
ok "the server is rebooted" within 60 cloud server reboot --hard simplenova
ok "and answers again at $floating" within 180 node infra1 ping -c 1 -W 2 "$floating"

note "memory: $(memory_now) MiB"
ok "memory is below 4.5 GB" test "$(memory_now)" -lt 4500
ok "down" "$stk" destroy
is "no setting of this machine's kernel has changed" "$(sysctls)" "$sysctls_before"
is "nothing is left" "$(host_snapshot)" "$before_host"

plan_done
