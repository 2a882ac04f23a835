# shellcheck shell=bash
# A real Consul agent for a test, and a scratch directory. Sourced after tap.sh.

[ ! -e /opt/stacktira/bin ] || skip_all "the tools are installed on this machine, and would be used"
# shellcheck disable=SC2154 # `repo` is set by the test
consul=${STACKTIRA_CONSUL:-$("$repo/provision/local/consul-binary")}
tools=${STACKTIRA_BINARIES:-$repo/target/release}
scratch=$(mktemp -d)
agent=
trap '[ -z "$agent" ] || kill -9 "$agent" 2>/dev/null || true; rm -rf "$scratch"' EXIT
kv() { "$tools/consul-kv" "$@"; }

# consul_agent [OPTION...]: starts it, on ports that are free now, and tells the tools.
consul_agent() {
    local http rpc serf wan
    read -r http rpc serf wan < <(python3 -c 'import socket
held = [socket.socket() for _ in range(4)]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')
    "$consul" agent -dev -bind 127.0.0.1 -http-port "$http" -grpc-port -1 -dns-port -1 -server-port "$rpc" \
        -serf-lan-port "$serf" -serf-wan-port "$wan" "$@" >"$scratch/consul.log" 2>&1 &
    agent=$!
    export CONSUL_HTTP_ADDR=127.0.0.1:$http
    for _ in $(seq 100); do ! kv put ready yes >/dev/null 2>&1 || break; sleep 0.2; done
    ok "Consul runs" kv get ready
}
