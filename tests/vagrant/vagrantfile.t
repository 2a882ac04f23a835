#!/usr/bin/env bash
# The Vagrantfile as Vagrant understands it. No machine is made: `vagrant validate` and Vagrant's own classes are
# asked, for libvirt and, with a stub that answers for VBoxManage, for VirtualBox.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"

command -v vagrant >/dev/null || skip_all "vagrant is not here; next: apt-get install vagrant vagrant-libvirt"
ruby -e 'require "vagrant"' 2>/dev/null || skip_all "this vagrant does not use the system's ruby"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/bin" "$scratch/home" "$scratch/project/provision" "$scratch/debs" "$scratch/key"
# Just enough VirtualBox for Vagrant to take it for one.
cat >"$scratch/bin/VBoxManage" <<'STUB'
#!/bin/sh
[ "$1" != --version ] || echo 7.0.14r161095
STUB
chmod +x "$scratch/bin/VBoxManage"
project=$scratch/project

fresh() {
    cp "$repo/Vagrantfile" "$project/Vagrantfile"
    cp "$repo/provision/nodes.list" "$project/provision/nodes.list"
    printf 'KEY\n' >"$scratch/key/site.asc"
    printf 'SECRET\n' >"$scratch/key/site.sec.asc"
    : >"$scratch/debs/stacktira_1_amd64.deb"
    mkdir -p "$scratch/secrets"
    for secret in cluster control hyper mirror management; do printf 'SECRET%s\n' "$secret" >"$scratch/secrets/$secret"; done
}

# in_project PROVIDER COMMAND...: nothing of this machine's Vagrant is used or changed.
in_project() {
    local provider=$1
    shift
    (cd "$project" && env -i PATH="$scratch/bin:$PATH" HOME="$scratch/home" VAGRANT_HOME="$scratch/home/.vagrant.d" LANG=C.UTF-8 \
        VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DEFAULT_PROVIDER="$provider" STACKTIRA_SITE_KEY="$scratch/key" STACKTIRA_DEBS="$scratch/debs" STACKTIRA_SECRETS="$scratch/secrets" \
        "${settings[@]}" "$@")
}
settings=()

# listing PROVIDER: into $list; get EXPRESSION: of it.
listing() { list=$(in_project "$1" ruby "$here/list.rb" "$project" "$1"); }
get() { printf '%s' "$list" | ruby -rjson -e 'm = JSON.parse($stdin.read); print eval(ARGV[0])' "$1"; }

providers=virtualbox
! vagrant plugin list 2>/dev/null | grep -q '^vagrant-libvirt ' || providers="virtualbox libvirt"

fresh
expected=$(sed -e 's/#.*//' -e '/^ *$/d' "$repo/provision/nodes.list" | awk '{ print $1 }' | paste -sd' ')
for provider in $providers; do
    ok "$provider: vagrant validate" in_project "$provider" vagrant validate
    listing "$provider"
    is "$provider: the machines are those of provision/nodes.list" "$(get 'm.keys.join(" ")')" "$expected"
    is "$provider: each has the list's memory and 256 MiB for its kernel" "$(get 'm.map { |n, v| [n, v["memory"]].join(" ") }.join("\n")')" \
        "$(sed -e 's/#.*//' -e '/^ *$/d' "$repo/provision/nodes.list" | awk '{ print $1, $5 + 256 }')"
    is "$provider: all together" "$(get 'm.values.sum { |v| v["memory"] }')" \
        "$(sed -e 's/#.*//' -e '/^ *$/d' "$repo/provision/nodes.list" | awk '{ sum += $5 + 256 } END { print sum }')"
    is "$provider: inside and outside, with the list's last number" "$(get 'm["hyper1"]["networks"].join(" ")')" "192.168.56.21 192.168.57.21"
    is "$provider: addresses that VirtualBox allows, each once" \
        "$(get 'a = m.values.flat_map { |v| v["networks"] }; require "ipaddr"; a.uniq.length == 14 && a.all? { |i| IPAddr.new("192.168.56.0/21").include?(i) }')" true
    is "$provider: what runs" "$(get 'm["infra1"]["provisioners"].map { |p| p["name"] }.join(", ")')" "secret cluster, secret control, secret hyper, secret mirror, secret management, seed, bootstrap"
    is "$provider: what runs on the build node" "$(get 'm["build1"]["provisioners"].map { |p| p["name"] }.join(", ")')" "key site.sec.asc, key site.asc, secret cluster, secret mirror, seed, bootstrap"
    is "$provider: who has which secrets" "$(get 'm.map { |n, v| [n, v["provisioners"].filter_map { |p| p["name"][/^secret (.)/, 1] }.join].join(":") }.sort.join(" ")')" \
        "build1:cm control1:cc hyper1:ch infra1:cchmm infra2:cchmm infra3:cchmm proxy1:c"
    is "$provider: as provision/secrets.sh says it" "$(for role in infra control hyper build; do rm -rf "$scratch/given" && "$repo/provision/secrets.sh" install "$scratch/secrets" "$role" "$scratch/given" && find "$scratch/given" -type f | wc -l; done | paste -sd' ')" "5 2 2 2"
    is "$provider: the project is copied, not shared" "$(get 'm.values.map { |v| v["folders"]["/vagrant"]["type"] }.uniq.join(" ")')" rsync
    is "$provider: without what is built and kept" "$(get 'm["infra1"]["folders"]["/vagrant"]["rsync__exclude"].join(" ")')" ".git/ .vagrant/ target/"
    is "$provider: only the build node has the packages" "$(get 'm.select { |_, v| v["folders"].key?("/srv/debs") }.keys.join(" ")')" build1
    is "$provider: only the build node has the secret key" "$(get 'm.select { |_, v| v["provisioners"].any? { |p| p["source"].to_s.end_with?("site.sec.asc") } }.keys.join(" ")')" build1
    is "$provider: the secret is in no script" "$(get 'm.values.flat_map { |v| v["provisioners"] }.count { |p| p["inline"].to_s.include?("SECRET") }')" 0
done

# Scripts: each is written for sh and run by bash.
listing virtualbox
for node in $expected; do
    get "m['$node']['provisioners'].find { |p| p['name'] == 'seed' }['inline']" >"$scratch/seed-$node.sh"
done
get 'm["build1"]["provisioners"].find { |p| p["name"] == "bootstrap" }["inline"]' >"$scratch/bootstrap-build.sh"
ok "the scripts are clean" shellcheck -s sh -S style "$scratch"/*.sh
is "a bootstrap that fails is a script that fails: nothing is between" "$(get 'm["infra1"]["provisioners"].last["inline"]')" "exec /vagrant/provision/bootstrap.sh"

# The seed, in a scratch directory and with a machine's commands played.
seed() {
    rm -rf "$scratch/guest" "$scratch/calls"
    mkdir -p "$scratch/guest/tmp" "$scratch/guest/bin"
    : >"$scratch/calls"
    cp "$scratch/key/site.sec.asc" "$scratch/key/site.asc" "$scratch/guest/tmp/"
    cp "$scratch/secrets/cluster" "$scratch/guest/tmp/stacktira.cluster"
    printf '#!/bin/sh\necho "2: eth1 inet %s/24 scope global eth1"; echo "3: eth2 inet %s/24 scope global eth2"\n' "$2" "$3" >"$scratch/guest/bin/ip"
    # shellcheck disable=SC2016 # for the programs to expand
    printf '#!/bin/sh\n[ "${*##* }" = git ] || echo "install ok installed"\n' >"$scratch/guest/bin/dpkg-query"
    for name in apt-get systemctl; do printf '#!/bin/sh\necho "%s $*" >>"%s"\n' "$name" "$scratch/calls" >"$scratch/guest/bin/$name"; done
    chmod +x "$scratch/guest/bin"/*
    sed -E "s#(^|[ >\"])(/mnt/config|/etc/stacktira|/etc/apt|/run/stacktira|/tmp/site|/tmp/stacktira)#\\1$scratch/guest\\2#g" "$scratch/seed-$1.sh" >"$scratch/guest/seed.sh"
    PATH=$scratch/guest/bin:$PATH bash "$scratch/guest/seed.sh"
}
document() { ruby -rjson -e 'd = JSON.parse(File.read(ARGV[0])); print eval(ARGV[1])' "$scratch/guest/mnt/config/openstack/latest/meta_data.json" "$1"; }
ok "the seed of control1 runs" seed control1 192.168.56.11 192.168.57.11
is "its document names the role" "$(document 'd["meta"]["role"]')" control
is "the interfaces that have the addresses" "$(document 'd["meta"].values_at("internal_interface", "external_interface").join(" ")')" "eth1 eth2"
is "the mirror and its key" "$(document 'd["meta"].values_at("mirror_address", "mirror_key").join(" ").strip')" "http://192.168.56.5:8080 KEY"
is "the Consul servers" "$(document 'd["meta"].values_at("consul_join", "consul_servers").join(" ")')" "192.168.56.31,192.168.56.32,192.168.56.33 3"
is "the control nodes" "$(document 'd["meta"]["control_nodes"]')" control1=192.168.56.11
is "and the cluster's address" "$(document 'd["meta"]["vip"]')" 192.168.56.41
# The keys that the local provider writes and this one has another answer for: what only a mirror on a disk needs.
local_keys=$(sed -n '/^machine_metadata/,/^}/s/^    "\([a-z_]*\)": .*/\1/p' "$repo/provision/local/lib/machine.sh" | grep -Ev '^(mirror_extra_debs|mirror_git|mirror_debs|repos_manifest)$' | sort)
is "it has the keys of the local provider" "$(document '(d["meta"].keys).sort.join("\n")' | grep -Ev '^mirror_debs$')" "$local_keys"
# With a second control node every machine knows both, in the words of the local provider.
settings=(STACKTIRA_NODES=provision/two.list)
cp "$repo/provision/local/two-controls.list" "$project/provision/two.list"
listing virtualbox
is "another list: its machines" "$(get 'm.keys.join(" ")')" "$(sed -e 's/#.*//' -e '/^ *$/d' "$project/provision/two.list" | awk '{ print $1 }' | paste -sd' ')"
is "with two control nodes everybody knows both" "$(get 'm.values.map { |v| v["provisioners"].find { |p| p["name"] == "seed" }["inline"][/"control_nodes": "(.*)"/, 1] }.uniq.join(" ")')" \
    control1=192.168.56.11,control2=192.168.56.12
is "the second has what the first has" "$(get 'm["control2"]["provisioners"].map { |p| p["name"] }.join(", ")')" "$(get 'm["control1"]["provisioners"].map { |p| p["name"] }.join(", ")')"
ok "and Vagrant takes it" in_project virtualbox vagrant validate
settings=(STACKTIRA_NODES=provision/nowhere.list)
fails_with 1 "a list that is not there" in_project virtualbox vagrant validate
says "is named" 'STACKTIRA_NODES is no file: .*/provision/nowhere.list'
settings=()
ok "what the box lacks is installed" grep -q 'install git$' "$scratch/calls"
is "the secret key is for root" "$(stat -c %a "$scratch/guest/etc/stacktira/site.sec.asc")" 600
ok "and not left in /tmp" test ! -e "$scratch/guest/tmp/site.sec.asc"
is "the cluster's secret is for root" "$(stat -c %a "$scratch/guest/etc/stacktira/secrets" "$scratch/guest/etc/stacktira/secrets/cluster" | paste -sd' ')" "700 600"
ok "and not left in /tmp either" test ! -e "$scratch/guest/tmp/stacktira.cluster"
fails_with 69 "a seed without its addresses" seed control1 10.0.0.1 10.0.0.2
says "says which" 'no interface has 192.168.56.11 or 192.168.57.11'

# The box.
settings=(STACKTIRA_BOX=debian/other)
listing virtualbox
is "a box by name" "$(get 'm["infra1"]["box"]')" debian/other
sum=$(printf 'box' | sha256sum | cut -c1-64)
settings=(STACKTIRA_BOX_URL=https://boxes.invalid/x.box "STACKTIRA_BOX_CHECKSUM=$sum")
listing virtualbox
is "a box by address and digest" "$(get 'm["infra1"].values_at("url", "checksum", "checksum_type").join(" ")')" "https://boxes.invalid/x.box $sum sha256"
printf 'box' >"$scratch/x.box"
settings=("STACKTIRA_BOX_URL=$scratch/x.box")
listing virtualbox
is "a box in a file" "$(get 'm["infra1"]["url"].first')" "file://$scratch/x.box"
settings=(STACKTIRA_BOX_URL=https://boxes.invalid/x.box)
fails_with 1 "an address without a digest is refused" in_project virtualbox vagrant validate
says "by name" 'STACKTIRA_BOX_URL needs STACKTIRA_BOX_CHECKSUM'
settings=(STACKTIRA_BOX_URL=nowhere.box)
fails_with 1 "a file that is not there is refused" in_project virtualbox vagrant validate
settings=("STACKTIRA_BOX_URL=$scratch/x.box" STACKTIRA_BOX_CHECKSUM=abc)
fails_with 1 "a digest that is none is refused" in_project virtualbox vagrant validate
settings=()

# What is missing stops `up` before anything is made.
rm "$scratch/key/site.asc" "$scratch/debs/stacktira_1_amd64.deb" "$scratch/secrets/control"
fails_with 1 "up without key and packages" in_project virtualbox timeout 60 vagrant up infra1
says "names the key" "no site.asc in $scratch/key"
says "and the secret" "no secret control in $scratch/secrets"
says "and the packages" "no package of the tools in $scratch/debs"
ok "looking needs neither" in_project virtualbox vagrant validate
fresh

# These checks would find it.
broken() {
    sed -i "s|$2|$3|" "$project/Vagrantfile"
    ! cmp -s "$repo/Vagrantfile" "$project/Vagrantfile" || { tap_report 1 "$1: nothing was changed"; return; }
    fails_with 1 "$1" in_project "${4:-virtualbox}" vagrant validate
    fresh
}
broken "a wrong word in VirtualBox's settings is found" 'vb.memory =' 'vb.memry ='
broken "a wrong kind of folder is found" 'type: "rsync", rsync__exclude' 'type: "rsyncc", rsync__exclude'
broken "a wrong kind of provisioner is found" 'type: "shell", inline: Stacktira.seed' 'type: "shel", inline: Stacktira.seed'
broken "a script that is not there is found" 'inline: Stacktira.seed(node)' 'path: "nowhere.sh"'
case $providers in *libvirt*) broken "a wrong word in libvirt's settings is found" 'libvirt.memory =' 'libvirt.memry =' libvirt ;; esac
printf 'odd1 infra 192.168.242.99\n' >>"$project/provision/nodes.list"
fails_with 1 "a broken line in the list is found" in_project virtualbox vagrant validate
says "by its number" 'nodes.list:10: not'
fresh
printf 'odd1 infra 192.168.242.99 10.2.3.999 512\n' >>"$project/provision/nodes.list"
fails_with 1 "an address that is none is found" in_project virtualbox vagrant validate
fresh
printf 'infra1 infra 192.168.242.99 10.2.3.99 512\n' >>"$project/provision/nodes.list"
fails_with 1 "a machine that is there twice is found" in_project virtualbox vagrant validate
says "by its name" 'twice: infra1'
fresh
printf 'control2 control 10.0.0.11 10.2.3.12 512\n' >>"$project/provision/nodes.list"
fails_with 1 "two machines with one address are found" in_project virtualbox vagrant validate
says "by the address" 'two machines would have 192.168.56.11'
fresh
sed -i '/^proxy1/d' "$project/provision/nodes.list"
fails_with 1 "a list without a machine that everybody is told of" in_project virtualbox vagrant validate
says "is refused by the role" 'no machine of the role proxy'
fresh

[ "$providers" != virtualbox ] || note "vagrant-libvirt is not here: libvirt was not asked"
plan_done
