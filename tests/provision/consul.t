#!/usr/bin/env bash
# consul.sh, secrets.sh and acl.sh: configuration in scratch roots, and real agents made of it where Consul and root
# are to be had.
# shellcheck disable=SC2119
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"
agent() { printf '%s/etc/consul.d/%s' "$root" "${1:-10-stacktira.json}"; }
# consul_alone ROLE ADDRESS: without the bootstrap, which on the build node makes a mirror first.
consul_alone() {
    mkdir -p "$root/etc/facter/facts.d" "$root/run/stacktira"
    cp "$root/mnt/config/openstack/latest/meta_data.json" "$root/run/stacktira/"
    printf '{"role": "%s", "stacktira": {"internal_address": "%s"}}\n' "$1" "$2" >"$root/etc/facter/facts.d/stacktira.json"
    on_node "$repo/provision/consul.sh"
}
tokens() { sed -n "s/.*\"$1\": \"\([0-9a-f-]*\)\".*/\1/p" "$(agent 20-stacktira.json)"; }

fresh
ok "a server" bootstrap --provisioner none
ok "is one" grep -q '"bootstrap_expect": 3' "$(agent)"
ok "that joins the others" grep -q '"retry_join": \["192.0.2.31", "192.0.2.32"\]' "$(agent)"
ok "bound to its inside address" grep -q '"bind_addr": "192.0.2.31"' "$(agent)"
ok "and asked on loopback only" grep -q '"client_addr": "127.0.0.1"' "$(agent)"
ok "it runs no scripts as checks" sh -c "grep -q '\"enable_script_checks\": false' '$(agent)' && grep -q '\"enable_local_script_checks\": false' '$(agent)'"
is "called by its host's name" "$(sed -n 's/.*"node_name": "\(.*\)",/\1/p' "$(agent)")" infra1
ok "with a gossip key of 32 bytes" sh -c "[ \$(sed -n 's/.*\"encrypt\": \"\(.*\)\",/\1/p' '$(agent 20-stacktira.json)' | base64 -d | wc -c) = 32 ]"
ok "denied is the default" grep -q '"default_policy": "deny"' "$(agent 20-stacktira.json)"
is "the first token under its name" "$(tokens initial_management | grep -cE '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$')" 1
is "files with tokens" "$(stat -c '%a' "$(agent 20-stacktira.json)" "$root/etc/stacktira/consul.token" "$root/etc/stacktira/management.token" | paste -sd' ')" "640 640 600"
is "tools are told the file, not the token" "$(cat "$root/etc/stacktira/consul.env")" CONSUL_HTTP_TOKEN_FILE=/etc/stacktira/consul.token
is "it was validated before it was there" "$(calls '^consul validate')" 1
infra=$(cat "$(agent 20-stacktira.json)")
fresh control
ok "a client" bootstrap --provisioner none
ok "is no server" sh -c "! grep -q '\"server\"' '$(agent)'"
is "of the same gossip" "$(grep encrypt "$(agent 20-stacktira.json)")" "$(printf '%s\n' "$infra" | grep encrypt)"
is "it does not know the first token" "$(tokens initial_management)$(find "$root/etc/stacktira" -name management.token)" ""
control=$(cat "$root/etc/stacktira/consul.token")
fresh build
rm "$root/etc/stacktira/secrets/mirror"
metadata "\"role\": \"build\", $words"
ok "a build node that was given no secret for the mirror" consul_alone build 192.0.2.11
build=$(cat "$root/etc/stacktira/consul.token")
fresh proxy
ok "a proxy" bootstrap --provisioner none
is "they have the rights of any node" "$build" "$(cat "$root/etc/stacktira/consul.token")"
fresh hyper
ok "another client" bootstrap --provisioner none
ok "has other tools' rights than control" sh -c "[ '$control' != '$(cat "$root/etc/stacktira/consul.token")' ]"
fresh
settings=(CONSUL_VERSION=1.8.7)
ok "an old Consul" bootstrap --provisioner none
is "knows the first token by its old name" "$(tokens master | wc -l)" 1

fresh
rm -r "$root/etc/stacktira/secrets"
fails_with 65 "no secrets" bootstrap
says "are asked for" 'no secrets in .*; next: provision/secrets.sh, or consul_acl off'
fresh
printf 'short' >"$root/etc/stacktira/secrets/cluster"
fails_with 65 "a secret that is none" bootstrap
ok "is not shown" sh -c "! printf '%s' \"\$1\" | grep -q 'short\$'" sh "$tap_output"
fresh
rm -r "$root/etc/stacktira/secrets"
metadata "\"role\": \"infra\", $words, \"provider\": \"local\""
ok "the local environment without secrets" bootstrap --provisioner none
ok "has none in Consul" test ! -e "$(agent 20-stacktira.json)"
fresh
metadata "\"role\": \"infra\", $words, \"provider\": \"local\""
ok "the local environment with secrets" bootstrap --provisioner none
ok "is as any other" test -e "$(agent 20-stacktira.json)"
metadata "\"role\": \"infra\", $words, \"consul_acl\": \"off\""
rm -rf "$root/run"
ok "consul_acl off" bootstrap
is "takes all of it away" "$(find "$root/etc/consul.d/20-stacktira.json" "$root/etc/stacktira/consul.token" "$root/etc/stacktira/consul.env" 2>/dev/null)" ""
fresh
ok "a configuration" bootstrap --provisioner none
before=$(cat "$(agent)")
metadata "\"role\": \"infra\", ${words/192.0.2.32/192.0.2.33}"
rm -rf "$root/run"
settings=(VALIDATE=1)
fails_with 1 "that Consul refuses" bootstrap
says "is said" 'Consul refuses the configuration; .*/etc/consul.d is as it was'
is "and the old one stays" "$(cat "$(agent)")" "$before"

# Secrets.
make="$repo/provision/secrets.sh make $scratch/site"
# shellcheck disable=SC2086 # words
ok "secrets are made" $make
is "five, for their owner" "$(cd "$scratch/site" && stat -c '%n %a %s' -- * | paste -sd,)" "cluster 600 40,control 600 40,hyper 600 40,management 600 40,mirror 600 40"
before=$(cat "$scratch/site"/*)
# shellcheck disable=SC2086
ok "again" $make
is "they are kept" "$(cat "$scratch/site"/*)" "$before"
for pair in 'infra cluster,control,hyper,management,mirror' 'control cluster,control' 'hyper cluster,hyper' 'proxy cluster' 'build cluster,mirror'; do
    ok "what ${pair% *} may have" "$repo/provision/secrets.sh" install "$scratch/site" "${pair% *}" "$scratch/for/${pair% *}"
    is "${pair% *}: is no more" "$(find "$scratch/for/${pair% *}" -type f -printf '%f\n' | sort | paste -sd,)" "${pair#* }"
done
fails_with 1 "from nothing" "$repo/provision/secrets.sh" install "$scratch/nothing" infra "$scratch/for/x"

tools=${STACKTIRA_BINARIES:-$repo/target/release}
consul=${STACKTIRA_CONSUL:-$("$repo/provision/local/consul-binary" 2>/dev/null || true)}
if [ ! -x "$consul" ] || [ "$(id -u)" != 0 ] || ! unshare --net true 2>/dev/null; then
    note "no Consul, or no root: real agents were not tried"
    plan_done
    exit
fi
ok "certificates are made" "$repo/provision/secrets.sh" make "$scratch/site" --tls "$consul" dc1
ok "the authority's key goes to no node" sh -c "'$repo/provision/secrets.sh' install '$scratch/site' infra '$scratch/for/tls' && test -e '$scratch/for/tls/server-key.pem' && ! test -e '$scratch/for/tls/ca-key.pem'"
"$repo/provision/secrets.sh" install "$scratch/site" hyper "$scratch/for/client"
ok "and a client has no server's key" test ! -e "$scratch/for/client/server-key.pem"

# Five nodes in one network of their own: configuration by bootstrap.sh, agents by the real Consul.
mkdir "$scratch/nodes"
node() {
    fresh "$2"
    rm -r "$root/etc/stacktira/secrets"
    "$repo/provision/secrets.sh" install "$scratch/site" "$2" "$root/etc/stacktira/secrets"
    metadata "\"role\": \"$2\", ${words/192.0.2.31,192.0.2.32/10.77.0.31,10.77.0.32,10.77.0.33}"
    program ip "echo '2: lan0 inet $3/24 scope global lan0'"
    ln -sf "$consul" "$scratch/bin/consul"
    settings=("NODE=$1")
    configure=(bootstrap --provisioner none)
    [ "$2" != build ] || configure=(consul_alone build "$3")
    ok "$1: is configured, and the real Consul finds it valid" "${configure[@]}"
    cp -r "$root" "$scratch/nodes/$1"
    # Where the agent runs there is no root of its own.
    sed -i "s|/etc/consul.d/tls|$scratch/nodes/$1/etc/consul.d/tls|" "$scratch/nodes/$1/etc/consul.d/20-stacktira.json"
    sed -i "s|/var/lib/consul|$scratch/nodes/$1/data|; s|\"client_addr\": \"127.0.0.1\"|\"client_addr\": \"$3\"|" "$scratch/nodes/$1/etc/consul.d/10-stacktira.json"
}
node infra1 infra 10.77.0.31
node infra2 infra 10.77.0.32
node infra3 infra 10.77.0.33
node hyper1 hyper 10.77.0.21
node build1 build 10.77.0.11
printf '{"service": {"name": "web", "port": 80}}\n' >"$scratch/nodes/hyper1/etc/consul.d/50-web.json"
cat >"$scratch/agents" <<'END'
set -euo pipefail
ip link set lo up
ip link add lan0 type bridge
ip link set lan0 up
for address in 31 32 33 21 11; do ip addr add 10.77.0.$address/24 dev lan0; done
pids=()
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT
for node in infra1 infra2 infra3 hyper1 build1; do
    "$CONSUL" agent -config-dir "$NODES/$node/etc/consul.d" >"$NODES/$node/log" 2>&1 &
    pids+=($!)
done
for node in infra1 infra2 infra3; do
    STACKTIRA_ROOT=$NODES/$node CONSUL_HTTP_ADDR=10.77.0.3${node#infra}:8500 "$REPO/provision/acl.sh" >>"$NODES/acl" 2>&1 &
    waited+=($!)
done
for pid in "${waited[@]}"; do wait "$pid" && echo 0 || echo $?; done >"$NODES/codes"
at() { CONSUL_HTTP_ADDR=$1:8500 CONSUL_HTTP_TOKEN_FILE=${2:+$NODES/$2/etc/stacktira/consul.token} "$CONSUL" "${@:3}" 2>&1; }
for _ in $(seq 90); do [ "$(at 10.77.0.21 hyper1 members | grep -c alive)" != 5 ] || break; sleep 1; done
at 10.77.0.21 hyper1 members | awk 'NR > 1 { print $1, $3 }' | sort >"$NODES/members"
for _ in $(seq 60); do at 10.77.0.21 hyper1 catalog services | grep -q web && break; sleep 1; done
at 10.77.0.21 hyper1 catalog services >"$NODES/services"
try() { local name=$1; shift; if at "$@" >/dev/null; then echo "$name yes"; else echo "$name no"; fi; }
{
    try node-writes-own 10.77.0.21 hyper1 kv put stacktira/node/hyper1 x
    try node-reads-own 10.77.0.21 hyper1 kv get stacktira/node/hyper1
    try none-reads 10.77.0.21 '' kv get stacktira/node/hyper1
    try node-writes-hiera 10.77.0.21 hyper1 kv put hiera/common/x y
    try infra-writes-hiera 10.77.0.31 infra1 kv put hiera/common/x y
    try node-reads-hiera 10.77.0.21 hyper1 kv get hiera/common/x
    try infra-writes-secrets 10.77.0.31 infra1 kv put stacktira/secret/hyper/x y
    at 10.77.0.31 infra1 kv put stacktira/secret/control/x y >/dev/null
    try hyper-reads-its-secret 10.77.0.21 hyper1 kv get stacktira/secret/hyper/x
    try hyper-reads-others-secret 10.77.0.21 hyper1 kv get stacktira/secret/control/x
    try hyper-writes-secrets 10.77.0.21 hyper1 kv put stacktira/secret/hyper/x z
    try hyper-moves-the-mirror 10.77.0.21 hyper1 kv put stacktira/mirror/channel/stable x
    try hyper-pins-itself 10.77.0.21 hyper1 kv put stacktira/mirror/node/hyper1 x
    try hyper-reports-to-the-mirror 10.77.0.21 hyper1 kv put stacktira/mirror/state/hyper1 x
    try build-moves-the-mirror 10.77.0.11 build1 kv put stacktira/mirror/channel/stable x
    try build-reports-to-the-mirror 10.77.0.11 build1 kv put stacktira/mirror/state/build1 x
    try build-writes-hiera 10.77.0.11 build1 kv put hiera/common/x z
    try infra-moves-the-mirror 10.77.0.31 infra1 kv put stacktira/mirror/channel/stable y
    try hyper-follows-the-mirror 10.77.0.21 hyper1 kv get stacktira/mirror/channel/stable
    try node-makes-tokens 10.77.0.21 hyper1 acl token list
    try infra-makes-tokens 10.77.0.31 infra1 acl token list
} >"$NODES/rights"
# The mirror's own commands with these tokens: who moves the pointer, and that a node follows it and says so.
if [ -x "$TOOL" ]; then
    mkdir -p "$NODES/mirror/debs" "$NODES/mirror/node"
    "$TOOL" keygen --out "$NODES/mirror/site.sec.asc" --public "$NODES/mirror/site.asc"
    cat >"$NODES/mirror/mirror.yaml" <<YAML
root: $NODES/mirror/root
url: http://127.0.0.1:8080
signing_key: $NODES/mirror/site.sec.asc
channels: [stable]
consul: {prefix: stacktira/mirror}
sources: [{name: own, type: deb, dir: $NODES/mirror/debs, suites: [s], components: [main], architectures: [amd64]}]
node: {mirror: "http://127.0.0.1:8080", channel: stable, name: hyper1, keyring: $NODES/mirror/site.asc, update: false}
YAML
    as() {
        local code=0
        STACKTIRA_ROOT=$NODES/mirror/node CONSUL_HTTP_ADDR=$2:8500 CONSUL_HTTP_TOKEN_FILE=$NODES/$1/etc/stacktira/consul.token \
            "$TOOL" --config "$NODES/mirror/mirror.yaml" "${@:3}" 2>>"$NODES/mirror/log" || code=$?
        [ "$3" = snapshot ] || echo "$1 $3 $code"
    }
    # What was put there above is no snapshot.
    at 10.77.0.31 infra1 kv delete stacktira/mirror/channel/stable >/dev/null
    as build1 10.77.0.11 sync >/dev/null
    id=$(as build1 10.77.0.11 snapshot)
    "$TOOL" --config "$NODES/mirror/mirror.yaml" serve --listen 127.0.0.1:8080 2>/dev/null &
    pids+=($!)
    for _ in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:8080/ && break; sleep 0.1; done
    {
        as hyper1 10.77.0.21 promote "$id" --channel stable
        as build1 10.77.0.11 promote "$id" --channel stable
        as hyper1 10.77.0.21 apply
        at 10.77.0.31 infra1 kv get stacktira/mirror/state/hyper1 | grep -c "\"have\":\"$id\",\"state\":\"applied\""
    } >"$NODES/mirrored"
fi
CONSUL_HTTP_ADDR=10.77.0.31:8500 CONSUL_HTTP_TOKEN_FILE=$NODES/infra1/etc/stacktira/management.token "$CONSUL" acl token list -format=json >"$NODES/tokens"
STACKTIRA_ROOT=$NODES/infra2 CONSUL_HTTP_ADDR=10.77.0.32:8500 "$REPO/provision/acl.sh" >"$NODES/again" 2>&1
CONSUL_HTTP_ADDR=10.77.0.31:8500 CONSUL_HTTP_TOKEN_FILE=$NODES/infra1/etc/stacktira/management.token "$CONSUL" acl token list -format=json >"$NODES/tokens.again"
# Somebody without the gossip key and the certificates.
"$CONSUL" agent -data-dir "$NODES/stranger" -bind 10.77.0.21 -client 127.0.0.1 -serf-lan-port 9301 -node stranger -retry-join 10.77.0.31 >"$NODES/stranger.log" 2>&1 &
pids+=($!)
sleep 5
at 10.77.0.31 infra1 members | grep -c stranger >"$NODES/strangers" || true
END
ok "real agents, and acl.sh on three servers at the same time" env CONSUL="$consul" TOOL="$tools/mirror-sync" NODES="$scratch/nodes" REPO="$repo" unshare --net bash "$scratch/agents"
is "acl.sh ends well on each" "$(paste -sd' ' "$scratch/nodes/codes")" "0 0 0"
is "five members over TLS and encrypted gossip" "$(paste -sd, "$scratch/nodes/members")" "build1 alive,hyper1 alive,infra1 alive,infra2 alive,infra3 alive"
ok "a service that an agent's file defines is registered" grep -qx web "$scratch/nodes/services"
is "rights" "$(paste -sd, "$scratch/nodes/rights")" "node-writes-own yes,node-reads-own yes,none-reads no,node-writes-hiera no,infra-writes-hiera yes,node-reads-hiera yes,infra-writes-secrets yes,hyper-reads-its-secret yes,hyper-reads-others-secret no,hyper-writes-secrets no,hyper-moves-the-mirror no,hyper-pins-itself no,hyper-reports-to-the-mirror yes,build-moves-the-mirror yes,build-reports-to-the-mirror yes,build-writes-hiera no,infra-moves-the-mirror yes,hyper-follows-the-mirror yes,node-makes-tokens no,infra-makes-tokens no"
if [ -x "$tools/mirror-sync" ]; then
    is "a node may not promote, the build node may, and a node follows and reports" "$(paste -sd, "$scratch/nodes/mirrored")" "hyper1 promote 77,build1 promote 0,hyper1 apply 0,1"
else
    note "no $tools/mirror-sync: its commands were not tried with these tokens"
fi
is "each token is there once, though three laid them down" "$(grep -o '"Description": "stacktira: [a-z]*"' "$scratch/nodes/tokens" | sort | uniq -c | awk '{ print $1 }' | paste -sd' ')" "1 1 1 1 1 1"
is "acl.sh again changes nothing" "$(cat "$scratch/nodes/tokens.again")" "$(cat "$scratch/nodes/tokens")"
is "who has not the key is no member" "$(cat "$scratch/nodes/strangers")" 0
[ "$tap_failed" = 0 ] || for log in "$scratch/nodes"/*/log "$scratch/nodes/acl"; do tail -n 5 "$log" | sed "s|^|# ${log##*nodes/}: |"; done
plan_done
