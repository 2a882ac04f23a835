#!/usr/bin/env bash
# Proxy, facts and /etc/hosts of bootstrap.sh.
# shellcheck disable=SC2119
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"
all=(/etc/profile.d/stacktira-proxy.sh /etc/systemd/system.conf.d/50-stacktira-proxy.conf /etc/apt/apt.conf.d/80stacktira-proxy)

fresh
ok "a proxy" bootstrap --provisioner none --proxy http://proxy.invalid:3128 --no-proxy git.invalid
for file in "${all[@]}"; do ok "is in $file" grep -q 'http://proxy.invalid:3128' "$root$file"; done
direct=$(sed -n 's/^export no_proxy=//p' "$root${all[0]}")
for host in 127.0.0.1 169.254.169.254 git.invalid 192.0.2.31 192.0.2.32 mirror.invalid 192.0.2.41 192.0.2.0/24 198.51.100.0/25 .stacktira.test; do
    ok "but not for $host" sh -c 'case ",$1," in *",$2,"*) ;; *) exit 1 ;; esac' sh "$direct" "$host"
done
ok "apt reaches the mirror without it" grep -q 'Proxy::mirror.invalid "DIRECT"' "$root${all[2]}"
before=$(tree)
ok "a second time" bootstrap
is "changes nothing: the option is kept" "$(tree)" "$before"
ok "an empty one" bootstrap --proxy ''
is "takes it away" "$(for file in "${all[@]}"; do [ ! -e "$root$file" ] || echo "$file"; done)" ""
for wrong in http://user:secret@proxy.invalid:3128 proxy.invalid:3128 'http://x; rm' ftp://x 'http://a b'; do
    fresh
    fails_with 65 "refused: $wrong" bootstrap --proxy "$wrong"
done
fresh
fails_with 65 "refused: a list that would break out of its files" bootstrap --proxy http://p --no-proxy 'a"; x'
fresh
metadata "\"role\": \"infra\", $words, \"proxy\": \"http://proxy.invalid:3128\", \"no_proxy\": \"a.invalid,b.invalid\""
ok "the metadata's proxy" bootstrap --provisioner none
ok "is as good" grep -q 'a.invalid,b.invalid' "$root${all[0]}"
fresh
system almalinux 9.6
ok "on EL" bootstrap --provisioner none --proxy http://proxy.invalid:3128
is "dnf has it" "$(grep -c '^proxy=http://proxy.invalid:3128$' "$root/etc/dnf/dnf.conf")" 1
ok "beside what was there" grep -q '^gpgcheck=1$' "$root/etc/dnf/dnf.conf"
before=$(tree)
ok "again" bootstrap
is "only once" "$(tree)" "$before"
ok "and taken away" bootstrap --proxy ''
is "leaves the file as it was" "$(cat "$root/etc/dnf/dnf.conf")" "$(printf '[main]\ngpgcheck=1')"

# Facts.
fresh
metadata "\"role\": \"infra\", $words, \"external_interface\": \"pub0\", \"provider\": \"metal\""
ok "interfaces by name" bootstrap --provisioner none
is "are facts" "$(fact_of internal_address) $(fact_of external_address) $(fact_of vip) $(fact_of provider)" "192.0.2.31 198.51.100.31 192.0.2.41 metal"
ok "structured ones, and JSON" python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["stacktira"]["internal_interface"] == "lan0" and d["role"] == "infra"' "$root/etc/facter/facts.d/stacktira.json"
ok "what Hiera needs before the first run too" python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d == {"role": "infra", "networking": {"hostname": "infra1"}}' "$root/var/lib/stacktira/facts.json"
printf '#!/bin/sh\necho "2: lan0 inet 10.9.9.9/24 scope global lan0"\n' >"$scratch/bin/ip"
ok "an address that changes later" bootstrap
is "does not change who this node is" "$(fact_of internal_address)" 192.0.2.31
ok "--relock looks again" bootstrap --relock
is "and locks the new one" "$(fact_of internal_address)" 10.9.9.9
ok "hosts follow" grep -q '^10.9.9.9 infra1.stacktira.test infra1$' "$root/etc/hosts"
fresh
metadata "\"role\": \"infra\", \"consul_join\": \"192.0.2.31\", $mirror_words"
printf '198.51.100.31' >"$root/etc/stacktira/address"
ok "an address that the provider has told" bootstrap --provisioner none
is "is looked for among the interfaces" "$(fact_of internal_interface)" pub0
fresh
metadata "\"role\": \"infra\", \"consul_join\": \"192.0.2.31\", $mirror_words"
printf '203.0.113.77' >"$root/etc/stacktira/address"
fails_with 69 "an address that no interface has" bootstrap
says "is named" "no interface has this node's address '203.0.113.77'"
fresh
metadata "\"role\": \"infra\", \"consul_join\": \"192.0.2.31\", $mirror_words"
ok "no word about it" bootstrap --provisioner none
is "means where the default route leads" "$(fact_of internal_interface)" lan0
fresh
metadata "\"role\": \"infra\", \"consul_join\": \"192.0.2.31\", $mirror_words"
program ip ':'
fails_with 69 "nor a route" bootstrap
says "is said" 'no default route to guess it by'
for interface in lo nothing0; do
    fresh
    metadata "\"role\": \"infra\", ${words/lan0/$interface}"
    fails_with 69 "interface $interface" bootstrap
    says "is refused by its name" "interface '$interface' has no usable address"
    ok "and nothing is locked" test ! -e "$root/etc/facter/facts.d/stacktira.json"
done

# Names.
fresh
printf '127.0.0.1 localhost infra1\n127.0.1.1 infra1.novalocal infra1\n::1 localhost ip6-localhost infra1 # six\n192.0.2.9 build1 # keep\n' >"$root/etc/hosts"
mkdir -p "$root/etc/cloud/cloud.cfg.d"
ok "hosts" bootstrap --provisioner none
is "this node's name is its address, and the rest is as it was" "$(cat "$root/etc/hosts")" "$(printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n192.0.2.9 build1 # keep\n# BEGIN stacktira\n192.0.2.31 infra1.stacktira.test infra1\n# END stacktira')"
is "cloud-init leaves it alone" "$(cat "$root/etc/cloud/cloud.cfg.d/99-stacktira.cfg")" 'manage_etc_hosts: false'
ok "again" bootstrap
is "it is one block" "$(grep -c '^# BEGIN stacktira$' "$root/etc/hosts")" 1
printf '10.0.0.1 later\n' >>"$root/etc/hosts"
ok "and again, after somebody has added a line" bootstrap
ok "which stays" grep -qx '10.0.0.1 later' "$root/etc/hosts"
# Several control nodes: each must find the others by name, and nobody else says it.
fresh
two='"control_nodes": "control1=192.0.2.51,infra1=192.0.2.31,control2=192.0.2.52"'
metadata "\"role\": \"control\", $words, $two"
ok "one of several control nodes" bootstrap --provisioner none
block() { sed -n '/^# BEGIN stacktira$/,/^# END stacktira$/p' "$root/etc/hosts" | grep -v '^#'; }
is "knows the others by name" "$(block)" "$(printf '192.0.2.31 infra1.stacktira.test infra1\n192.0.2.51 control1.stacktira.test control1\n192.0.2.52 control2.stacktira.test control2')"
ok "and they are facts" python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["stacktira"]["controls"] == {"control1": "192.0.2.51", "infra1": "192.0.2.31", "control2": "192.0.2.52"}' "$root/etc/facter/facts.d/stacktira.json"
before=$(tree)
ok "a second time" bootstrap
is "changes nothing" "$(tree)" "$before"
fresh
metadata "\"role\": \"control\", $words, \"control_nodes\": \"infra1=192.0.2.31\""
ok "the only one" bootstrap --provisioner none
is "names itself" "$(block)" "192.0.2.31 infra1.stacktira.test infra1"
for wrong in 'control1' 'control1=192.0.2.51,' 'control1=host' 'control1=192.0.2.51 control2=192.0.2.52' 'a=1.2.3.4;x=1.2.3.4'; do
    fresh
    metadata "\"role\": \"control\", $words, \"control_nodes\": \"$wrong\""
    fails_with 65 "refused: control_nodes $wrong" bootstrap --provisioner none
    says "by its name" control_nodes
done

fresh
rm "$root/etc/hosts"
ok "a system without the file" bootstrap --provisioner none
ok "has one" grep -q '^192.0.2.31 infra1.stacktira.test infra1$' "$root/etc/hosts"
# Consul's servers must be named.
fresh
metadata "\"role\": \"hyper\", \"internal_interface\": \"lan0\", $mirror_words"
fails_with 69 "a node of a cluster needs Consul's servers" bootstrap --provisioner none
says "and is told which key" 'no consul_join'
plan_done
