#!/usr/bin/env bash
# The catalogs of all roles and stages, compiled by Puppet with a real Consul, for each release of OpenStack that there are
# data for: with the modules that its release of Debian packages. No machine is made; a minute or two.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

ruby -rpuppet -e 1 2>/dev/null || skip_all "Puppet is not here: make test-deps"
# shellcheck source=../lib/consul.sh
. "$here/../lib/consul.sh"
puppet=$repo/provision/puppet
consul_agent -node control1
export STACKTIRA_BIN=$tools

# What the elected node would have left there.
"$tools/consul-elect" once control >/dev/null
ruby -ryaml -e 'YAML.load_file(ARGV[0])["stacktira::secrets"].each { |one| name, kind, *roles = one.split; roles.each { |role| puts "stacktira/secret/#{role}/#{name} #{kind}" } }' \
    "$puppet/data/common.yaml" >"$scratch/secrets"
while read -r key kind; do kv put "$key" "a-$kind-of-no-use-to-anybody" >/dev/null; done <"$scratch/secrets"
kv put stacktira/identity/url http://192.0.2.41:5000/v3 >/dev/null

# facts NODE ROLE STAGE RELEASE CODENAME NUMBER CONTROLS [ADDRESS]: a module whose facts go before the machine's own.
facts() {
    rm -rf "$scratch/facts"
    mkdir -p "$scratch/facts/facts/facts.d"
    cat >"$scratch/facts/facts/facts.d/test.json" <<END
{"role": "$2",
 "os": {"name": "Debian", "family": "Debian", "architecture": "amd64", "release": {"full": "$6.5", "major": "$6", "minor": "5"},
   "distro": {"id": "Debian", "codename": "$5", "description": "Debian GNU/Linux $6", "release": {"full": "$6.5", "major": "$6", "minor": "5"}}},
 "osfamily": "Debian", "operatingsystem": "Debian", "operatingsystemrelease": "$6.5", "operatingsystemmajrelease": "$6", "lsbdistcodename": "$5",
 "networking": {"hostname": "$1", "domain": "stacktira.test", "fqdn": "$1.stacktira.test", "ip": "192.0.2.11", "interfaces": {}},
 "hostname": "$1", "fqdn": "$1.stacktira.test", "virtual": "systemd_nspawn",
 "stacktira": {"internal_interface": "enp0s8", "internal_address": "${8:-192.0.2.11}", "external_interface": "enp0s9", "external_address": "198.51.100.11",
   "vip": "192.0.2.41", "mirror": "http://192.0.2.5:8080", "provider": "local", "stage": "$3", "openstack": "$4", "controls": {$7}}}
END
}
compile() {
    puppet catalog compile "$1.stacktira.test" --render-as json --hiera_config "$puppet/hiera.yaml" --manifest "$puppet/manifests/site.pp" \
        --vardir "$scratch/var" --confdir "$scratch/conf" --modulepath "$scratch/facts:$puppet/site-modules:$2" >"$scratch/catalog.json" 2>"$scratch/complaints"
}
# What a question in Ruby says of the catalog; `all` is its resources.
catalog() { ruby -rjson -e 'said = File.read(ARGV[0]); all = JSON.parse(said[said.index("{")..])["resources"]; puts eval(ARGV[1])' "$scratch/catalog.json" "$1"; }
packages() { catalog 'all.select { |one| one["type"] == "Package" && !%w[absent purged].include?(one.dig("parameters", "ensure")) }.flat_map { |one| Array(one.dig("parameters", "name") || one["title"]) }.uniq.sort'; }

one='"control1": "192.0.2.11"'
two='"control1": "192.0.2.11", "control2": "192.0.2.12"'
three="$two, \"control3\": \"192.0.2.13\""
while read -r release codename number; do
    if ! modules=$("$repo/provision/local/puppet-modules" "$codename" 2>"$scratch/why"); then
        note "skipped: the modules of $codename cannot be had here: $(tail -n 1 "$scratch/why")"
        continue
    fi
    : >"$scratch/packages"
    for case in "build1 build cloud" "infra1 infra cloud" "proxy1 proxy cloud" "control1 control identity" "control1 control cloud" "hyper1 hyper identity" "hyper1 hyper cloud"; do
        read -r node role stage <<<"$case"
        facts "$node" "$role" "$stage" "$release" "$codename" "$number" "$one"
        if compile "$node" "$modules/modules"; then tap_report 0 "$release, $role at the stage $stage"; else tap_report 1 "$release, $role at the stage $stage" "$(tail -n 3 "$scratch/complaints")"; fi
        packages >>"$scratch/packages" || true
        case $role-$stage in
            control-cloud) is "$release: the agents are those of its driver" "$(catalog 'all.map { |one| one["title"] }.grep(/\Aneutron::agents::ml2::(linuxbridge|ovs)\z/i).map(&:downcase)')" \
                "neutron::agents::ml2::$([ "$release" = zed ] && echo linuxbridge || echo ovs)" ;;
        esac
    done
    # The same check as in a cluster: what a catalog names, the source of packages must have.
    is "$release: Debian $number has every package that the catalogs name" \
        "$(sort -u "$scratch/packages" | grep -v '^stacktira$' | comm -23 - "$modules/packages" | tr '\n' ' ')" ""
    note "$release: $(sort -u "$scratch/packages" | wc -l) packages named"
    mapfile -t files < <(find "$puppet/data" -name '*.yaml' ! -path '*/openstack*' | sort; find "$puppet/data" -path "*openstack*$release.yaml")
    is "$release: no Hiera key is dead" "$(ruby "$repo/tests/lib/hiera-keys.rb" "$puppet/site-modules:$modules/modules" "${files[@]}" | sed 's/^.*data.//; /^[0-9]* keys/d')" ""

    # Several control nodes: one forms database and messages, the other joins and does nothing that is to be done once.
    for node in control1 control2; do
        facts "$node" control cloud "$release" "$codename" "$number" "$two"
        if compile "$node" "$modules/modules"; then tap_report 0 "$release, $node of two"; else tap_report 1 "$release, $node of two" "$(tail -n 3 "$scratch/complaints")"; fi
        # A command that waits for a change that another node's catalog makes is not done here.
        once=$(catalog 'all.select { |one| %w[Mysql_database Mysql_user Keystone_user Keystone_user_role Keystone_role Keystone_tenant Keystone_service Keystone_endpoint Nova_cell_v2 Rabbitmq_user].include?(one["type"]) && one["title"] != "guest" || (one["type"] == "Exec" && one["title"] =~ /db[-_]?sync|bootstrap|cell|metadefs|form the database/i) }.map { |one| one["title"] }')
        if [ $node = control1 ]; then ok "$release: $node does what is to be done once: $(printf '%s\n' "$once" | wc -l) resources" test "$(printf '%s\n' "$once" | wc -l)" -gt 30
        else is "$release: $node does nothing of what is to be done once" "$once" ""; fi
    done

    # Two databases need a vote of a third, which has none itself: at one proxy, however many there are. Three need none.
    kv put stacktira/database/formed control1 >/dev/null
    while read -r node address controls wanted; do
        facts "$node" proxy cloud "$release" "$codename" "$number" "${!controls}" "$address"
        if compile "$node" "$modules/modules"; then tap_report 0 "$release, $node with $controls control nodes"; else tap_report 1 "$release, $node with $controls control nodes" "$(tail -n 3 "$scratch/complaints")"; fi
        is "$release: $node with $controls control nodes votes for" "$(catalog 'all.filter_map { |one| one.dig("parameters", "content")[/GALERA_NODES="(.*)"/, 1] if one["title"] == "/etc/default/garb" }.join')" "${wanted//,/ }"
        ! packages | grep -qx galera-arbitrator-4 || packages >>"$scratch/packages"
    done <<'CASES'
proxy1 192.0.2.41 one
proxy1 192.0.2.41 two 192.0.2.11:4567,192.0.2.12:4567
proxy2 192.0.2.42 two
proxy1 192.0.2.41 three
CASES
    kv delete stacktira/database/formed >/dev/null
    facts control3 control cloud "$release" "$codename" "$number" "$three" 192.0.2.13
    if compile control3 "$modules/modules"; then tap_report 0 "$release, control3 of three"; else tap_report 1 "$release, control3 of three" "$(tail -n 3 "$scratch/complaints")"; fi
    is "$release: its database joins the other two" "$(catalog 'all.filter_map { |one| one.dig("parameters", "override_options", "mysqld", "wsrep_cluster_address") }.join')" "gcomm://192.0.2.11,192.0.2.12,192.0.2.13"
    is "$release: and its broker" "$(catalog 'all.find { |one| one["title"] == "Rabbitmq" }.dig("parameters", "cluster_nodes").join(" ")')" "control1 control2 control3"
done <<'END'
zed bookworm 12
epoxy trixie 13
END

plan_done
