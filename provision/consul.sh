#!/bin/sh
# Installs and configures the Consul agent of this node: a server on the role infra, else a client. What would be
# refused by `consul validate` never replaces what is there.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=consul
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=lib/sources.sh
. "$here/lib/sources.sh"
# shellcheck source=lib/secrets.sh
. "$here/lib/secrets.sh"

case ${1:-} in
    '') ;;
    --help)
        cat <<'END'
Usage: consul.sh [--help]

Brings this node's Consul agent to where the facts and the metadata want it. Called by bootstrap.sh.

Metadata: consul_join, consul_servers, consul_datacenter; consul_acl (off: no gossip key, no access control);
consul_source (packages, hashicorp, or the path of a program on this node; default: packages with a mirror or where
the system has them, else hashicorp). Secrets: /etc/stacktira/secrets (provision/secrets.sh).

Environment:
  STACKTIRA_ROOT   prefix of every path

Exit status: 0 done   1 Consul refuses or does not answer   2 usage   65 metadata or secrets that cannot be used
             69 something is missing
END
        exit 0
        ;;
    *) die 2 "unknown argument: $1" ;;
esac

role=$(fact role) || die 69 "no facts of this node; next: provision/bootstrap.sh"
address=$(fact stacktira.internal_address)
mirror=$(meta mirror_address '')
join=$(meta consul_join)
servers=$(meta consul_servers 3)
datacenter=$(meta consul_datacenter dc1)
fits consul_servers "$servers" '[1-9][0-9]?'
fits consul_join "$join" '[0-9A-Za-z.:_-]+(,[0-9A-Za-z.:_-]+)*'
fits consul_datacenter "$datacenter" '[a-z0-9_-]{1,64}'
agent_tls=/etc/consul.d/tls

# given_program FILE: what the package would bring, around a program that somebody has put here.
given_program() {
    "$1" version 2>/dev/null | grep -q '^Consul v' || die 65 "consul_source does not answer as Consul does: $1"
    cmp -s "$1" "$root/usr/bin/consul" || { cp "$1" "$root/usr/bin/consul.new" && chmod 755 "$root/usr/bin/consul.new" && mv -f "$root/usr/bin/consul.new" "$root/usr/bin/consul"; }
    atomic_write 0644 "$root/etc/systemd/system/consul.service" <"$here/systemd/consul.service" || true
    [ -n "$root" ] || getent passwd consul >/dev/null || useradd --system --user-group --home-dir /var/lib/consul --shell /usr/sbin/nologin consul
}

offered() {
    if [ "$(family)" = el ]; then command dnf -q list --available consul >/dev/null 2>&1
    else apt-cache show consul >/dev/null 2>&1; fi
}

install_consul() {
    source=$(meta consul_source '')
    case $source in
        /*)
            [ -x "$root$source" ] || die 69 "consul_source is no program on this node: $source"
            given_program "$root$source"
            return 0
            ;;
        '' | packages | hashicorp) ;;
        *) die 65 "consul_source is neither packages, hashicorp nor a path: '$source'" ;;
    esac
    ! command -v consul >/dev/null 2>&1 || return 0
    [ "$source" != '' ] || [ -n "$mirror" ] || offered || source=hashicorp
    [ "$source" != hashicorp ] || vendor_source hashicorp
    install_packages consul || die 1 "the package consul cannot be installed"
    # The vendor's package has a file of its own that comes after ours and names another data directory.
    if [ -f "$root/etc/consul.d/consul.hcl" ]; then
        mv -f "$root/etc/consul.d/consul.hcl" "$root/etc/consul.d/consul.hcl.packaged"
        printf '[Unit]\nConditionFileNotEmpty=\n' | atomic_write 0644 "$root/etc/systemd/system/consul.service.d/stacktira.conf" || true
    fi
}

agent_config() {
    server=
    [ "$role" != infra ] || server="
  \"server\": true,
  \"bootstrap_expect\": $servers,"
    cat <<END
{
  "node_name": "$(short_name)",
  "node_meta": { "role": "$role" },
  "datacenter": "$datacenter",
  "data_dir": "/var/lib/consul",
  "bind_addr": "$address",
  "client_addr": "127.0.0.1",$server
  "retry_join": ["$(printf '%s' "$join" | sed 's/,/", "/g')"],
  "retry_interval": "2s",
  "leave_on_terminate": false,
  "disable_update_check": true,
  "disable_remote_exec": true,
  "enable_script_checks": false,
  "enable_local_script_checks": false
}
END
}

for_consul() { if [ -z "$root" ] && getent group consul >/dev/null; then chgrp consul "$@"; fi; }

install_consul
consul=$(command -v consul || true)
config=$root/etc/consul.d
umask 077
candidate=$(mktemp -d "${TMPDIR:-/tmp}/consul.XXXXXX")
trap 'rm -rf "$candidate"' EXIT
agent_config >"$candidate/10-stacktira.json"
secured=no
if with_secrets; then
    secured=yes
    mkdir -p "$root$agent_tls"
    chmod 750 "$root$agent_tls"
    for name in ca.pem server.pem server-key.pem; do
        [ ! -s "$secrets_dir/$name" ] || atomic_write 0640 "$root$agent_tls/$name" <"$secrets_dir/$name" || true
    done
    for_consul -R "$root$agent_tls"
    agent_secrets >"$candidate/20-stacktira.json"
fi
# With what others have put beside it: two halves that are valid alone may not be together.
for beside in "$config"/*.json "$config"/*.hcl; do
    case $beside in */10-stacktira.json | */20-stacktira.json) continue ;; esac
    [ ! -f "$beside" ] || cp "$beside" "$candidate/"
done
if [ -n "$consul" ]; then
    "$consul" validate -quiet "$candidate" >&2 || die 1 "Consul refuses the configuration; $config is as it was"
fi
changed=no
if atomic_write 0644 "$config/10-stacktira.json" <"$candidate/10-stacktira.json"; then changed=yes; fi
if [ $secured = yes ]; then
    if atomic_write 0640 "$config/20-stacktira.json" <"$candidate/20-stacktira.json"; then changed=yes; fi
    for_consul "$config/20-stacktira.json"
    tools_tokens
elif [ -e "$config/20-stacktira.json" ]; then
    rm -f "$config/20-stacktira.json" "$config_dir/consul.token" "$config_dir/management.token" "$config_dir/consul.env" "$root/etc/profile.d/stacktira.sh"
    changed=yes
fi

if systemd_running; then
    install -d -o consul -g consul -m 0750 /var/lib/consul
    systemctl daemon-reload
    systemctl enable --quiet consul
    if [ $changed = yes ] || ! systemctl is-active --quiet consul; then
        systemctl restart consul
    fi
    retry 60 curl --noproxy '*' -s --max-time 3 -o /dev/null http://127.0.0.1:8500/v1/status/leader ||
        die 1 "the Consul agent does not answer; log: journalctl -u consul"
    # User data may hold the secrets; the metadata service gives it to every process that asks.
    if [ $secured = yes ] && [ "$(meta provider unknown)" = heat ]; then
        systemctl enable --quiet --now stacktira-metadata.service
    fi
    # The servers lay down the tokens when enough of them are here to have a leader; that may be much later.
    if [ "$role" = infra ] && [ $secured = yes ]; then
        systemctl enable --quiet stacktira-acl.service
        systemctl restart --no-block stacktira-acl.service
    fi
fi
log "agent configured ($([ "$role" = infra ] && echo server || echo client), joins $join, $([ $secured = yes ] && echo 'gossip key and access control' || echo 'without access control'))"
