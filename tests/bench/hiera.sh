#!/usr/bin/env bash
# A cold lookup of one key by hiera-consul, the hiera command and puppet lookup: each round runs all of them, one
# after the other, so that what else the machine does falls on all alike. Prints the median of each and the
# ratios; programs that are not installed are left out.
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
{"bind_addr": "127.0.0.1", "disable_update_check": true, "log_level": "err",
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

ours() {
    STACKTIRA_ROOT=$scratch/root "$tool" lookup --hiera_config "$repo/provision/puppet/hiera.yaml" --facts "$scratch/facts.json" \
        --render-as s key100
}
hiera_command() { hiera -c "$scratch/hiera3.yaml" key100; }
puppet_lookup() {
    puppet lookup --confdir "$scratch/conf" --vardir "$scratch/var" --environmentpath "$scratch/environments" \
        --node node1.example.test --facts "$scratch/facts.json" --render-as s key100
}

# Prints the microseconds that a command took; its answer has to be right.
time_of() {
    local before=$EPOCHREALTIME after answer
    answer=$("$1" 2> "$scratch/err") || { cat "$scratch/err" >&2; return 1; }
    after=$EPOCHREALTIME
    [ "$answer" = 'value 100' ] || { echo "$1 answered '$answer'" >&2; return 1; }
    echo $((${after/[.,]/} - ${before/[.,]/}))
}

names=(ours)
command -v hiera > /dev/null && names+=(hiera_command)
command -v puppet > /dev/null && names+=(puppet_lookup)
for round in $(seq "$rounds"); do
    for name in "${names[@]}"; do
        [ "$name" = puppet_lookup ] && [ $((round % 5)) != 1 ] && continue
        time_of "$name" >> "$scratch/$name.us"
    done
done

median() { sort -n "$scratch/$1.us" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
base=$(median ours)
for name in "${names[@]}"; do
    sort -n "$scratch/$name.us" | awk -v name="$name" -v base="$base" '
        { all[NR] = $1 }
        END {
            median = all[int((NR + 1) / 2)]
            printf "%-14s median %8.1f ms  min %8.1f ms  %3d runs  %6.1f times ours\n", name, median / 1000, all[1] / 1000, NR, median / base
        }'
done
