#!/usr/bin/env bash
# A cold lookup of one key by hiera-consul, the hiera command and puppet lookup: each round runs all of them, one
# after the other, so that what else the machine does falls on all alike. Prints the median of each and the
# ratios; programs that are not installed are left out. Then the HTTP requests of a lookup, what 500 lookups cost in a
# catalog (hiera-catalog.rb), and a cold lookup and the coprocess' first answer among 10,000 keys.
#
#   tests/bench/hiera.sh [ROUNDS]        default 15; puppet lookup runs in every fifth round
#
# hiera-consul asks a Consul of its own with 50 services and 200 keys, through the shipped hiera.yaml; the others
# read YAML files alone. Consul: STACKTIRA_CONSUL, or on PATH. The tool: STACKTIRA_BIN, a directory, else
# target/release.
set -euo pipefail

rounds=${1:-15}
repo=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
tool=${STACKTIRA_BIN:-$repo/target/release}/hiera-consul
consul=${STACKTIRA_CONSUL:-$(command -v consul || true)}
scratch=$(mktemp -d)
agent=

finish() {
    if [ -n "$agent" ]; then
        kill -9 "$agent" 2>/dev/null || true
        wait "$agent" 2>/dev/null || true
    fi
    rm -rf "$scratch"
}
trap finish EXIT

[ -x "$tool" ] || { echo "$tool is not there: make build" >&2; exit 2; }
[ -x "$consul" ] || { echo "no Consul: set STACKTIRA_CONSUL or put consul on PATH" >&2; exit 2; }

port=$((20000 + RANDOM % 20000))
cat > "$scratch/agent.json" <<JSON
{"bind_addr": "127.0.0.1", "disable_update_check": true, "log_level": "debug",
 "ports": {"http": $port, "dns": -1, "grpc": -1, "serf_lan": $((port + 1)), "serf_wan": $((port + 2)), "server": $((port + 3))},
 "services": [$(for n in $(seq 50); do printf '%s{"name": "s%s", "port": %s, "tags": ["t"]}' "${comma:-}" "$n" "$((8000 + n))"; comma=,; done)]}
JSON
"$consul" agent -dev -config-file "$scratch/agent.json" > "$scratch/agent.log" 2>&1 &
agent=$!
export CONSUL_HTTP_ADDR=127.0.0.1:$port
unset CONSUL_HTTP_TOKEN CONSUL_HTTP_TOKEN_FILE
for _ in $(seq 100); do
    "$consul" kv put hiera/common/probe x > /dev/null 2>&1 && break
    sleep 0.2
done
{
    printf '['
    for n in $(seq 200); do
        printf '%s{"key": "hiera/common/key%s", "value": "%s"}' "$([ "$n" = 1 ] || echo ,)" "$n" "$(printf 'value %s' "$n" | base64 -w0)"
    done
    printf ']'
} | "$consul" kv import - > /dev/null

mkdir -p "$scratch/environments/production/data" "$scratch/root"
echo '{"role": "control", "networking": {"hostname": "node1"}, "hostname": "node1", "domain": "example.test",
  "fqdn": "node1.example.test", "clientcert": "node1.example.test"}' > "$scratch/facts.json"
for n in $(seq 200); do echo "key$n: value $n"; done > "$scratch/environments/production/data/common.yaml"
echo 'version: 5' > "$scratch/environments/production/hiera.yaml"
cat > "$scratch/hiera3.yaml" <<YAML
---
:backends: [yaml]
:hierarchy: [common]
:yaml:
  :datadir: $scratch/environments/production/data
YAML

export STACKTIRA_ROOT=$scratch/root
# shellcheck disable=SC2034 # by its name
floor=(/bin/true)
ours=("$tool" lookup --hiera_config "$repo/provision/puppet/hiera.yaml" --facts "$scratch/facts.json" --render-as s key100)
# shellcheck disable=SC2034 # by its name
hiera_command=(hiera -c "$scratch/hiera3.yaml" key100)
# shellcheck disable=SC2034 # by its name
puppet_lookup=(puppet lookup --confdir "$scratch/conf" --vardir "$scratch/var" --environmentpath "$scratch/environments"
    --node node1.example.test --facts "$scratch/facts.json" --render-as s key100)

# Prints the microseconds that a command took, as they passed and on a processor; its answer has to be right.
time_of() {
    local -n command=$1
    "$repo/tests/bench/process.py" run "$scratch/answer" "${command[@]}" 2> "$scratch/err" || { cat "$scratch/err" >&2; return 1; }
    [ "$1" = floor ] || [ "$(< "$scratch/answer")" = 'value 100' ] || { echo "$1 answered '$(< "$scratch/answer")'" >&2; return 1; }
}

# The floor is what starting any program takes, and is not taken off.
names=(ours floor)
command -v hiera > /dev/null && names+=(hiera_command)
command -v puppet > /dev/null && names+=(puppet_lookup)
for round in $(seq "$rounds"); do
    for name in "${names[@]}"; do
        [ "$name" = puppet_lookup ] && [ $((round % 5)) != 1 ] && continue
        time_of "$name" >> "$scratch/$name.us"
    done
done

# What passes is also what else the machine does; what is used of a processor is not.
middle() { sort -n -k "$2,$2" "$scratch/$1.us" | awk -v field="$2" '{ all[NR] = $field } END { print all[int((NR + 1) / 2)] }'; }
least() { sort -n -k "$2,$2" "$scratch/$1.us" | awk -v field="$2" 'NR == 1 { print $field }'; }
for name in "${names[@]}"; do
    awk -v name="$name" -v wall="$(middle "$name" 1)" -v least="$(least "$name" 1)" -v used="$(middle "$name" 2)" -v runs="$(wc -l < "$scratch/$name.us")" \
        -v base="$(middle ours 1)" -v lowest="$(least ours 1)" -v spent="$(middle ours 2)" 'BEGIN {
        printf "%-14s median %8.1f ms (%.1f times ours)  min %8.1f ms (%.1f times ours)  on a processor %7.1f ms (%.1f times ours)  %d runs\n",
            name, wall / 1000, wall / base, least / 1000, least / lowest, used / 1000, used / (spent > 0 ? spent : 1000), runs }'
done

# The requests of a command, as Consul's log has them.
requests() {
    local before after
    before=$(grep -c 'Request finished: method=' "$scratch/agent.log" || true)
    "$@" > /dev/null
    after=$(grep -c 'Request finished: method=' "$scratch/agent.log" || true)
    echo $((after - before))
}
echo "HTTP requests of a cold lookup: $(requests "${ours[@]}")"

catalog() { # NUMBER CODE: one real run of Puppet with a hierarchy of hiera-catalog.rb
    STACKTIRA_BIN=$(dirname "$tool") puppet apply --noop --facts_terminus memory --confdir "$scratch/conf" --vardir "$scratch/var" \
        --modulepath "$repo/provision/puppet/site-modules" --hiera_config "$scratch/catalog-$1.yaml" -e "$2" 2>&1
}
if command -v puppet > /dev/null; then
    STACKTIRA_BIN=$(dirname "$tool") ruby "$repo/tests/bench/hiera-catalog.rb" "$scratch" "$repo/provision/puppet/site-modules" "$rounds"
    keys="Integer[1, 500].each |\$n| { lookup(\"module\${n}::some_key\") } Integer[1, 500].each |\$n| { lookup(\"none\${n}\", undef, undef, 0) }"
    services="Integer[1, 7].each |\$n| { lookup(\"service_hash__t__s\${n}__Address\") lookup(\"s\${n}_ServicePort\") }"
    for number in 1 3; do
        echo "HTTP requests of puppet apply, 500 keys and 500 that are nowhere, hierarchy $number: $(requests catalog "$number" "$keys")," \
            "with 7 services: $(requests catalog "$number" "$keys $services")"
    done
fi

for part in $(seq 20); do
    for n in $(seq $((part * 500 - 499)) $((part * 500))); do
        printf '{"key": "hiera/common/many%s", "value": "%s"}\n' "$n" 'bWFueSB2YWx1ZXMgb2YgYW4gb3JkaW5hcnkgbGVuZ3Ro'
    done | paste -sd, | sed 's/^/[/; s/$/]/' | "$consul" kv import - > /dev/null
done
# A key, and one whose value leads to it: then all keys of the levels are read.
"$consul" kv put hiera/common/leads "%{lookup('key100')}" > /dev/null
# shellcheck disable=SC2034 # by its name
leads=("${ours[@]/%key100/leads}")
for _ in $(seq "$rounds"); do
    time_of ours >> "$scratch/many.us"
    time_of leads >> "$scratch/leads.us"
done
for name in many leads; do
    awk -v name="$name" -v wall="$(middle $name 1)" -v least="$(least $name 1)" -v used="$(middle $name 2)" 'BEGIN {
        printf "10,000 keys: %-23s median %8.1f ms  min %8.1f ms  on a processor %.1f ms\n",
            name == "many" ? "lookup" : "lookup with a lookup", wall / 1000, least / 1000, used / 1000 }'
done
for _ in $(seq "$rounds"); do
    "$repo/tests/bench/process.py" ask '{"id": 1, "op": "snapshot", "options": {"prefix": "hiera/common/"}}' "$tool" serve >> "$scratch/serve.us"
done
sort -n "$scratch/serve.us" | awk '{ all[NR] = $1; used += $4; if ($2 > most) most = $2; if ($3 < 400000) exit 1 } END {
    printf "10,000 keys: coprocess               median %8.1f ms  min %8.1f ms  on a processor %.1f ms (mean)  most memory %.1f MiB\n",
        all[int((NR + 1) / 2)] / 1000, all[1] / 1000, used / NR / 1000, most / 1024 }'
