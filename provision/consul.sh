#!/bin/sh
# Installs and configures the Consul agent of this node: a server on the role infra, else a client.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=consul
# shellcheck source=lib.sh
. "$here/lib.sh"

role=$(json_get "$root/etc/facter/facts.d/stacktira.json" role)
address=$(address_of "$(meta internal_interface)")
join=$(meta consul_join)
servers=$(meta consul_servers 3)
printf '%s' "$servers" | grep -Eqx '[1-9][0-9]?' || die 65 "consul_servers is no number: '$servers'"
printf '%s' "$join" | grep -Eqx '[0-9A-Za-z.:,_-]+' || die 65 "consul_join is no list of addresses: '$join'"

[ -n "$root" ] || command -v consul >/dev/null 2>&1 || apt install consul

server=
[ "$role" != infra ] || server="
  \"server\": true,
  \"bootstrap_expect\": $servers,"

config=$root/etc/consul.d/10-stacktira.json
candidate=$(mktemp -d "${TMPDIR:-/tmp}/consul.XXXXXX")
trap 'rm -rf "$candidate"' EXIT
cat >"$candidate/10-stacktira.json" <<EOF
{
  "node_name": "$(uname -n | sed 's/\..*//')",
  "node_meta": { "role": "$role" },
  "datacenter": "$(meta consul_datacenter dc1)",
  "data_dir": "/var/lib/consul",
  "bind_addr": "$address",
  "client_addr": "127.0.0.1",$server
  "retry_join": ["$(printf '%s' "$join" | sed 's/,/", "/g')"],
  "retry_interval": "2s",
  "leave_on_terminate": false,
  "disable_update_check": true,
  "disable_remote_exec": true
}
EOF
[ -n "$root" ] || consul validate -quiet "$candidate" || die 1 "Consul refuses the configuration; $config is as it was"
changed=no
if atomic_write 0644 "$config" <"$candidate/10-stacktira.json"; then changed=yes; fi

if systemd_running; then
    install -d -o consul -g consul -m 0750 /var/lib/consul
    systemctl enable --quiet consul
    if [ $changed = yes ] || ! systemctl is-active --quiet consul; then
        systemctl restart consul
    fi
    retry 60 curl --noproxy '*' -sf --max-time 3 -o /dev/null http://127.0.0.1:8500/v1/agent/self ||
        die 1 "the Consul agent does not answer; log: journalctl -u consul"
fi
log "agent configured ($([ -n "$server" ] && echo server || echo client), joins $join)"
