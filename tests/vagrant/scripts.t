#!/usr/bin/env bash
# tests/vagrant.sh and tests/clean.sh, with `vagrant` and `openstack` played by programs that record how they were called.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}

fresh() {
    rm -rf "${scratch:?}/bin" "$scratch/project" "$scratch/calls"
    mkdir -p "$scratch/bin" "$scratch/project/provision" "$scratch/project/tests" "$scratch/project/target/release" "$scratch/local/stk/debs"
    cp "$repo/provision/nodes.list" "$repo/provision/secrets.sh" "$scratch/project/provision/"
    cp "$repo/tests/vagrant.sh" "$repo/tests/clean.sh" "$scratch/project/tests/"
    : >"$scratch/calls"
    : >"$scratch/local/stk/debs/stacktira_1_amd64.deb"
    # shellcheck disable=SC2016 # for the programs to expand
    {
        printf '#!/bin/sh\necho "mirror-sync $*" >>"$CALLS"\n: >"$3"; echo KEY >"$5"\n' >"$scratch/project/target/release/mirror-sync"
        program vagrant 'echo "$(date +%s) vagrant $*" >>"$CALLS"
case $1 in
    up) [ "$2" != "${BROKEN:-}" ] || { echo "bootstrap: error: no mirror"; exit 1; }; sleep 1 ;;
    ssh) case $* in
        *"consul members"*) echo "Node Address"; for node in ${MEMBERS:-build1 infra1 infra2 infra3 proxy1 control1 hyper1}; do echo "$node 192.168.56.1:8301"; done ;;
        *) exit 0 ;;
    esac ;;
    status) echo "1,infra1,state,${STATE:-not_created}"; echo "1,infra1,state-human-short,x" ;;
esac'
        program openstack 'echo "openstack $*" >>"$CALLS"
case "$*" in
    "server list"*) echo "s1 stacktira-test-vm"; echo "s2 production" ;;
    "port list --server s1"*) echo p1 ;;
    "floating ip list --port p1"*) echo f1 ;;
    "router list"*) echo "r1 stacktira-test-router" ;;
    "port list --router r1"*) echo "[{\"Fixed IP Addresses\": [{\"subnet_id\": \"n1\", \"ip_address\": \"10.0.0.1\"}]}]" ;;
    "network list"*) echo "w1 stacktira-test-net"; echo "w2 public" ;;
    "keypair list"*) echo stacktira-test-key; echo ops ;;
    "image list"*) [ -z "${LIST_FAILS:-}" ] || exit 1 ;;
    *delete*) case "$*" in *"${STUBBORN:-nothing}") exit 1 ;; esac ;;
esac'
    }
    chmod +x "$scratch/project/target/release/mirror-sync"
}

# run SCRIPT ARG...
run() {
    local script=$1
    shift
    env -i PATH="$scratch/bin:$PATH" HOME="$scratch" CALLS="$scratch/calls" STK_LOCAL_DIR="$scratch/local" "${settings[@]}" \
        timeout 60 "$scratch/project/tests/$script" "$@"
}
settings=()
called() { grep -c -- "$1" "$scratch/calls" || true; }

for script in vagrant.sh clean.sh; do
    ok "$script --help" "$repo/tests/$script" --help
    says "$script --help names its exit codes" 'Exit status: 0'
done

fresh
fails_with 2 "an unknown option" run vagrant.sh --frob
fails_with 2 "an unknown machine" run vagrant.sh infra9
says "is named" "no machine 'infra9'"
fails_with 2 "a pause that is no number" run vagrant.sh --stagger soon
is "nothing was started" "$(called 'vagrant up')" 0

ok "--prepare" run vagrant.sh --prepare
is "makes the site's key" "$(called 'mirror-sync keygen --out .*/target/vagrant/site.sec.asc --public .*/target/vagrant/site.asc')" 1
ok "takes the local environment's packages" test -e "$scratch/project/target/vagrant/debs/stacktira_1_amd64.deb"
is "and starts nothing" "$(called 'vagrant up')" 0
is "and the cluster's secrets" "$(find "$scratch/project/target/vagrant/secrets" -type f -perm 600 | wc -l)" 5
before=$(cat "$scratch/project/target/vagrant/secrets/cluster")
ok "--prepare again" run vagrant.sh --prepare
is "keeps the secrets" "$(cat "$scratch/project/target/vagrant/secrets/cluster")" "$before"
is "keeps the key" "$(called 'mirror-sync keygen')" 1

ok "all machines" run vagrant.sh --stagger 0
is "are brought up, each by a process of its own" "$(called 'vagrant up')" 7
is "the build node first" "$(grep -m 1 -o 'vagrant up .*' "$scratch/calls")" "vagrant up build1"
says "and the result is checked" 'are bootstrapped and in Consul'
: >"$scratch/calls"
ok "some machines, with a pause" run vagrant.sh --stagger 1 infra1 infra2
times=$(awk '/vagrant up/ { print $1 }' "$scratch/calls" | paste -sd' ')
ok "are staggered" test $((${times#* } - ${times% *})) -ge 1
cp "$repo/provision/local/two-controls.list" "$scratch/project/provision/two.list"
: >"$scratch/calls"
settings=(STACKTIRA_NODES=provision/two.list "MEMBERS=build1 infra1 infra2 infra3 proxy1 control1 control2 hyper1")
ok "all machines of another list" run vagrant.sh --stagger 0
is "are brought up" "$(called 'vagrant up')" 8
settings=(STACKTIRA_NODES=nowhere.list)
fails_with 2 "a list that is not there" run vagrant.sh
says "is named" 'no file: .*/nowhere.list'
settings=(BROKEN=infra2)
fails_with 1 "a machine whose bootstrap fails" run vagrant.sh --stagger 0
says "is named" 'not up: infra2'
says "with the last lines of its log" 'bootstrap: error: no mirror'
settings=(MEMBERS=infra1 STACKTIRA_UP_TIMEOUT=4)
fails_with 1 "machines that are not in Consul" run vagrant.sh --stagger 0 infra1 infra2
says "are a failure" 'sees only these in Consul: infra1'
settings=()
fresh
rm "$scratch/project/target/release/mirror-sync"
fails_with 69 "no key and nothing to make one" run vagrant.sh
says "says what to do" 'next: make build'
fresh
rm "$scratch/local/stk/debs/stacktira_1_amd64.deb"
fails_with 69 "no packages" run vagrant.sh
says "says what to do" 'next: make up, or STACKTIRA_DEBS'

fresh
fails_with 2 "clean.sh without a word" run clean.sh
ok "clean.sh vagrant" run clean.sh vagrant
is "destroys" "$(called 'vagrant destroy --force')" 1
settings=(STATE=running)
fails_with 1 "a machine that is still there is a failure" run clean.sh vagrant
says "and named" 'still there: infra1'
settings=()

fails_with 2 "clean.sh openstack without a cloud" run clean.sh openstack
settings=(OS_CLOUD=lab)
fails_with 2 "a prefix that would hit everything" run clean.sh openstack --prefix ''
fails_with 2 "or nearly everything" run clean.sh openstack --prefix te
: >"$scratch/calls"
ok "--dry-run" run clean.sh openstack --dry-run
is "deletes nothing" "$(called delete)" 0
says "says what" 'server stacktira-test-vm'
ok "clean.sh openstack" run clean.sh openstack
is "deletes ours, in this order" "$(grep -E ' (delete|remove) ' "$scratch/calls" | sed 's/^openstack //' | paste -sd, )" \
    'floating ip delete f1,server delete --wait s1,router remove subnet r1 n1,router delete r1,network delete w1,keypair delete stacktira-test-key'
settings=(OS_CLOUD=lab STUBBORN=w1)
fails_with 1 "what cannot be deleted is a failure" run clean.sh openstack
says "and named" 'could not be deleted: network stacktira-test-net'
settings=(OS_CLOUD=lab LIST_FAILS=1)
fails_with 1 "a cloud that does not answer is no clean cloud" run clean.sh openstack
says "and named" 'openstack image list failed'

plan_done
