#!/usr/bin/env bash
# Brings the Vagrantfile's machines up at the same time, one after the other by some seconds, and checks that
# they became a cluster.
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
repo=$(cd "$here/.." && pwd)

usage() {
    cat <<'EOT'
Usage: tests/vagrant.sh [--prepare] [--stagger SECONDS] [MACHINE...]

  --prepare          make what `vagrant up` needs (key, secrets, packages), and stop
  --stagger SECONDS  pause between two machines (default: 20); the build node goes first
  MACHINE...         machines of the list (default: all)

Environment:
  STACKTIRA_NODES            list of the machines (default: provision/nodes.list)
  STACKTIRA_DEBS             directory of the packages that build1 serves (default: those of the local environment)
  STACKTIRA_SITE_KEY         directory of site.sec.asc and site.asc (default: target/vagrant; made when missing)
  STACKTIRA_SECRETS          directory of the cluster's secrets (default: target/vagrant/secrets; made when missing)
  STACKTIRA_UP_TIMEOUT       seconds for all machines (default: 3600)
  VAGRANT_DEFAULT_PROVIDER   virtualbox or libvirt

Exit status: 0 up and joined   1 a machine did not get there   2 usage   69 something is missing

Examples:
  make up down && tests/vagrant.sh
  tests/vagrant.sh --stagger 60 build1 infra1 infra2 infra3
EOT
}

say() { printf 'vagrant.sh: %s\n' "$*" >&2; }

die() {
    local code=$1
    shift
    say "error: $*"
    exit "$code"
}

stagger=20
prepare=no
machines=()
while [ $# -gt 0 ]; do
    case $1 in
        --prepare) prepare=yes ;;
        --stagger)
            [[ ${2:-} =~ ^[0-9]{1,4}$ ]] || die 2 "--stagger needs a number of seconds"
            stagger=$2
            shift
            ;;
        --help) usage; exit 0 ;;
        -*) usage >&2; die 2 "unknown option: $1" ;;
        *) machines+=("$1") ;;
    esac
    shift
done

# From the project's directory, as the Vagrantfile reads it.
list=${STACKTIRA_NODES:-provision/nodes.list}
case $list in /*) ;; *) list=$repo/$list ;; esac
[ -f "$list" ] || die 2 "STACKTIRA_NODES is no file: $list"
node_field() { sed -e 's/#.*//' "$list" | awk -v name="$1" -v field="$2" '$1 == name { print $field }'; }
all=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$list" | awk '{ print $1 }')
# shellcheck disable=SC2206 # a list of names
[ ${#machines[@]} -gt 0 ] || machines=($all)
for machine in "${machines[@]}"; do
    [ -n "$(node_field "$machine" 2)" ] || die 2 "there is no machine '$machine' in $list"
done
timeout=${STACKTIRA_UP_TIMEOUT:-3600}
[[ $timeout =~ ^[0-9]+$ ]] || die 2 "STACKTIRA_UP_TIMEOUT is no number: $timeout"

work=$repo/target/vagrant
mkdir -p "$work/log"

# The key that signs packages is made here, because every machine must know its public half at its first boot.
key=${STACKTIRA_SITE_KEY:-$work}
if [ ! -s "$key/site.asc" ]; then
    sync=$repo/target/release/mirror-sync
    [ -x "$sync" ] || die 69 "no site.asc in $key and no mirror-sync to make one; next: make build"
    mkdir -p "$key"
    rm -f "$key/site.sec.asc"
    "$sync" keygen --out "$key/site.sec.asc" --public "$key/site.asc"
fi
export STACKTIRA_SITE_KEY=$key

export STACKTIRA_SECRETS=${STACKTIRA_SECRETS:-$work/secrets}
"$repo/provision/secrets.sh" make "$STACKTIRA_SECRETS"

debs=${STACKTIRA_DEBS:-$work/debs}
if [ -z "${STACKTIRA_DEBS:-}" ] && [ -z "$(find "$debs" -name 'stacktira_*.deb' 2>/dev/null)" ]; then
    base=${STK_LOCAL_DIR:-/var/lib/stacktira-local}/${STK_LOCAL_PREFIX:-stk}/debs
    [ -n "$(find "$base" -name 'stacktira_*.deb' 2>/dev/null)" ] ||
        die 69 "no packages for build1 in $debs or $base; next: make up, or STACKTIRA_DEBS"
    mkdir -p "$debs"
    cp "$base"/*.deb "$debs/"
fi
export STACKTIRA_DEBS=$debs
[ "$prepare" = no ] || { say "prepared: $key, $debs"; exit 0; }

command -v vagrant >/dev/null || die 69 "vagrant is not here; next: install it, and VirtualBox or libvirt"
cd "$repo"

# One process for each machine, so that none waits for another's bootstrap; the pause keeps the host's disk alive.
order=()
for machine in "${machines[@]}"; do [ "$(node_field "$machine" 2)" != build ] || order+=("$machine"); done
for machine in "${machines[@]}"; do [ "$(node_field "$machine" 2)" = build ] || order+=("$machine"); done
declare -A jobs=()
started=$SECONDS
stop() {
    local pid
    for pid in "${jobs[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
}
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM
for machine in "${order[@]}"; do
    [ ${#jobs[@]} -eq 0 ] || sleep "$stagger"
    say "$machine: up (log: target/vagrant/log/$machine.log)"
    timeout "$timeout" vagrant up "$machine" >"$work/log/$machine.log" 2>&1 </dev/null &
    jobs[$machine]=$!
done

failed=()
for machine in "${order[@]}"; do
    code=0
    wait "${jobs[$machine]}" || code=$?
    if [ $code -eq 0 ]; then
        say "$machine: up after $((SECONDS - started)) s"
    else
        failed+=("$machine")
        say "$machine: vagrant up ended with $code; the last lines of its log:"
        tail -n 5 "$work/log/$machine.log" >&2
    fi
done
[ ${#failed[@]} -eq 0 ] || die 1 "not up: ${failed[*]}"

# Up is not yet a cluster: every bootstrap is done, and Consul has a leader that knows all of them.
on() { timeout 60 vagrant ssh "$1" --no-tty -c "$2" 2>/dev/null </dev/null; }
asked=${order[-1]}
for machine in "${order[@]}"; do
    until on "$machine" 'sudo test -e /var/lib/stacktira/bootstrapped'; do
        [ $((SECONDS - started)) -lt "$timeout" ] || die 1 "$machine: not bootstrapped after $timeout s; log: vagrant ssh $machine -c 'journalctl -u stacktira-bootstrap'"
        sleep 5
    done
done
until members=$(on "$asked" 'sudo CONSUL_HTTP_TOKEN_FILE=/etc/stacktira/consul.token /usr/bin/consul members -status=alive' | awk 'NR > 1 { print $1 }') && [ "$(wc -w <<<"$members")" -ge ${#order[@]} ]; do
    [ $((SECONDS - started)) -lt "$timeout" ] || die 1 "$asked sees only these in Consul: ${members//$'\n'/ }"
    sleep 5
done
say "all of ${order[*]} are bootstrapped and in Consul after $((SECONDS - started)) s"
