#!/usr/bin/env bash
# provision/share-secrets.sh with a real Consul: made once, shared with the roles that need them, waited for by the others.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=../lib/consul.sh
. "$here/../lib/consul.sh"
# shellcheck disable=SC2119 # no options
consul_agent

# node NAME ROLE [SECRET...]: a scratch root of its own.
node() {
    local root=$scratch/$1
    mkdir -p "$root/etc/facter/facts.d" "$scratch/data"
    printf '{"role": "%s"}\n' "$2" >"$root/etc/facter/facts.d/stacktira.json"
}
secrets() {
    { echo 'stacktira::secrets:'; printf '  - %s\n' "$@"; } >"$scratch/data/common.yaml"
    printf 'version: 5\nhierarchy: [{name: files, path: common.yaml, datadir: data, data_hash: yaml_data}]\n' >"$scratch/hiera.yaml"
    printf '#!/bin/sh\nexec "%s" "$@" --hiera_config "%s"\n' "$tools/hiera-consul" "$scratch/hiera.yaml" >"$scratch/bin/hiera-consul"
    chmod +x "$scratch/bin/hiera-consul"
}
mkdir -p "$scratch/bin"
for tool in consul-kv consul-elect; do ln -s "$tools/$tool" "$scratch/bin/$tool"; done
# share NODE [ARG...]: names of nodes are names of sessions' owners here, so each has its own agent's name in the record.
share() {
    local root=$scratch/$1
    shift
    env PATH="$scratch/bin:$PATH" STACKTIRA_ROOT="$root" STACKTIRA_SECRETS_WAIT=2 "$repo/provision/share-secrets.sh" "$@"
}
node control1 control
node hyper1 hyper
node proxy1 proxy

secrets 'admin_password password control' 'fernet_0 fernet control' 'rabbitmq_password password control hyper'
fails_with 1 "a hypervisor waits for its secret, by name" share hyper1
says "which is said" 'stacktira/secret/hyper/rabbitmq_password'
ok "a role that has no secret waits for nothing" share proxy1
ok "the elected node makes them" share control1 control
is "all of them, for whom they are" "$(kv list stacktira/secret/ | tr '\n' ' ')" \
    'stacktira/secret/control/admin_password stacktira/secret/control/fernet_0 stacktira/secret/control/rabbitmq_password stacktira/secret/hyper/rabbitmq_password '
is "a password is 40 letters and digits" "$(kv get stacktira/secret/control/admin_password | grep -Ecx '[A-Za-z0-9]{40}')" 1
is "a fernet key is 32 bytes in the URL-safe alphabet" "$(kv get stacktira/secret/control/fernet_0 | grep -Ecx '[A-Za-z0-9_-]{43}=')" 1
is "both roles have the same" "$(kv get stacktira/secret/hyper/rabbitmq_password)" "$(kv get stacktira/secret/control/rabbitmq_password)"
ok "the hypervisor goes on" share hyper1
before=$(for key in $(kv list stacktira/secret/); do kv get "$key"; echo; done)
ok "a second time" share control1 control
is "changes nothing" "$(for key in $(kv list stacktira/secret/); do kv get "$key"; echo; done)" "$before"
is "values are in no output" "$(share control1 control 2>&1 | wc -c)" 0

kv delete stacktira/secret/hyper/rabbitmq_password
ok "what is lost for one role" share control1 control
is "comes again from the other's" "$(kv get stacktira/secret/hyper/rabbitmq_password)" "$(kv get stacktira/secret/control/rabbitmq_password)"

secrets 'admin_password word control'
kv delete stacktira/secret/control/admin_password
fails_with 65 "an unknown kind is refused" share control1 control
says "by name" "'word' is no kind of secret"
secrets 'admin_password'
fails_with 65 "an entry that is none is refused" share control1 control
secrets '"x y control;reboot"'
fails_with 65 "and so is one with other letters" share control1 control

kill -9 "$agent"
wait "$agent" 2>/dev/null || true
agent=
secrets 'admin_password password control'
fails_with 69 "without Consul it says so" share control1 control

plan_done
