#!/usr/bin/env bash
# The showcase for real: OpenStack from Consul's data on seven nodes, until a server answers a ping; then again,
# after faults. Takes a quarter of an hour on two idle cores, 5 GB of memory and 10 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
STK_TEST_STAGE=cloud
STK_TEST_PREFIX=${STK_TEST_PREFIX:-stks}
# shellcheck source=../lib/cluster.sh
. "$here/../lib/cluster.sh"
# shellcheck source=../lib/cloud.sh
. "$here/../lib/cloud.sh"

missing=$("$stk" doctor 2>&1) || skip_all "the local environment cannot run here: $(printf '%s' "$missing" | tr '\n' ' ')"
trap 'cleanup' EXIT
before_host=$(host_snapshot)
sysctls_before=$(sysctls)
nodes="build1 infra1 infra2 infra3 proxy1 control1 hyper1"

# --- one command brings it up -------------------------------------------------------------------------
# Image, packages and layers are made before the clock starts.
ok "what is made once is there" "$stk" prepare
start=$SECONDS
figure "load of this machine at the start" "$(load_now)"
ok "up: seven nodes and a cloud" "$stk" up
note "$tap_output"
figure "a token through the proxy, asked from hyper1, after" "$(printf '%s\n' "$tap_output" | lap_of 'up: Keystone') s"
figure "a hypervisor and its agents after" "$(printf '%s\n' "$tap_output" | lap_of 'up: hyper1') s"
ok "a server lives" simplenova
lived=$tap_output
note "$lived"
says "its DHCP server reaches it" ' 10\.0\.0\.[0-9]* answers: received, 0% packet loss'
says "its console is read" 'console: STACKTIRA address 10\.0\.0\.'
says "metadata was answered" 'console: STACKTIRA metadata i-'
says "its floating address answers" 'floating address 10\.2\.3\.[0-9]* answers: received, 0% packet loss'
floated=$((SECONDS - start))
figure "a server that answers a ping, from the start" "$((floated - $(printf '%s\n' "$lived" | lap_of 'done') + $(printf '%s\n' "$lived" | lap_of '10\.0\.0\.[0-9]* answers'))) s"
figure "and its floating address" "$floated s"
figure "processor seconds of all nodes until then" "$(cpu_now) s"
figure "load of this machine then" "$(load_now)"
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
# The data of another release are not this cloud's; tests/provision/catalogs.t reads them with that release's modules.
is "no Hiera key is dead" "$(node control1 sh -c 'ruby /vagrant/tests/lib/hiera-keys.rb /opt/stacktira/provision/puppet/site-modules:/var/lib/stacktira/puppet/modules $(find /opt/stacktira/provision/puppet/data -name "*.yaml" ! -name "*epoxy.yaml") | tail -n 1 | sed "s/.*, //"')" '0 dead'
is "passwords are nobody else's to read" "$(node control1 stat -c '%a %U' /root/openrc)" '600 root'

# --- nothing from outside -----------------------------------------------------------------------------
is "every package source is build1" "$(for n in $nodes; do node "$n" apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sed 's|/snap/.*||'; done | sort -u)" "http://192.168.242.5:8080"
for n in $nodes; do
    is "$n has no default route" "$(node "$n" ip route show default)" ""
    fails_with 1 "$n cannot reach the outside" node "$n" ping -c 1 -W 1 10.2.3.254
    # What the image brought, and what a layer did, is in the snapshot too, or is the image's own.
    is "$n: every package its catalog names is in build1's snapshot, at the installed version" \
        "$(node "$n" ruby /vagrant/tests/lib/catalog-packages.rb | grep -v ': in the snapshot$' || true)" ""
done
figure "packages that the catalogs name, of all roles" "$(for n in $nodes; do node "$n" ruby /vagrant/tests/lib/catalog-packages.rb; done | sort -u | wc -l)"
is "the check finds a package that is not there" "$(node hyper1 ruby /vagrant/tests/lib/catalog-packages.rb no-such-package | grep '^no-such')" 'no-such-package: not in the snapshot'

# --- it stays as it is --------------------------------------------------------------------------------
figure "memory of all nodes, with a server" "$(memory_now) MiB"
ok "memory is at most 4.5 GB" test "$(memory_now)" -le 4500
for n in $nodes; do settle "$n"; done
for n in $nodes; do fails_with 0 "$n: a second run has nothing to do" "$stk" kick --wait "$n"; done
before=$(cpu_now)
fails_with 0 "control1: nor a third one" "$stk" kick --wait control1
figure "an unchanged run of control1 (load $(load_now))" "$(node control1 sed -n 's/.*"duration": \([0-9]*\).*/\1/p' /var/lib/stacktira/run.json) s"
figure "processor seconds of all nodes meanwhile" "$(($(cpu_now) - before)) s"

# --- power cut of the hypervisor, reboot of the control node ------------------------------------------
start=$SECONDS
ok "power cut of hyper1" "$stk" crash hyper1
ok "clean halt of control1" "$stk" halt control1
figure "a clean halt of control1 took" "$((SECONDS - start)) s"
start=$SECONDS
ok "both are started again" "$stk" up --no-wait control1 hyper1
ok "a token is issued" within 300 token_issued
ok "the compute services are up again" within 300 services_up
ok "the network agents are alive again" within 300 agents_alive 5
figure "services and agents are back after" "$((SECONDS - start)) s"
ok "the server is rebooted" within 60 cloud server reboot --hard simplenova
ok "and answers again at $floating" within 300 node infra1 ping -c 1 -W 2 "$floating"
figure "and the server answers after" "$((SECONDS - start)) s"

ok "down" "$stk" destroy
is "no setting of this machine's kernel has changed" "$(sysctls)" "$sysctls_before"
is "nothing is left" "$(host_snapshot)" "$before_host"

print_figures
plan_done
