#!/bin/sh
# The Puppet provisioner: watches what this node depends on, and kicks the first run.
# From here on every run goes through `kick`, which is `ts`, which never lets two overlap.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=puppet
# shellcheck source=lib.sh
. "$here/lib.sh"

[ -n "$root" ] || command -v puppet >/dev/null 2>&1 || apt install puppet-agent

mkdir -p "$state_dir/puppet"

# Hiera for people and scripts on this node: the same file that Puppet uses.
atomic_write 0644 "$config_dir/hiera-consul.yaml" <<'EOF' || true
hiera_config: /opt/stacktira/provision/puppet/hiera.yaml
facts: /var/lib/stacktira/facts.json
EOF

# Where this node's packages come from; on the build node the file has the mirror's own sections too.
mirror=$(meta mirror_address '')
if [ -n "$mirror" ] && [ ! -s "$config_dir/site.sec.asc" ]; then
    atomic_write 0644 "$config_dir/mirror.yaml" <<EOF || true
consul: {address: "http://127.0.0.1:8500", prefix: stacktira/mirror}
node: {mirror: "$mirror", channel: $(meta mirror_channel stable), role: $(meta role), keyring: $config_dir/site.asc, formats: [deb], update: true}
EOF
fi

# Until Puppet has written the watches of this role: data for everybody.
[ -s "$config_dir/watch.yaml" ] || atomic_write 0644 "$config_dir/watch.yaml" <<'EOF' || true
max_wait: 30s
watches:
  - name: hiera
    type: keyprefix
    prefix: hiera/
    debounce: 200ms..2s
    run: [/opt/stacktira/provision/kick, --reason, "watch hiera"]
EOF

if systemd_running; then
    systemctl daemon-reload
    systemctl enable --quiet --now stacktira-watch.service
    systemctl enable --quiet --now stacktira-converge.timer
    systemctl enable --quiet stacktira-converge.service
    /opt/stacktira/provision/kick --reason bootstrap >/dev/null
fi
log "the first run is kicked"
