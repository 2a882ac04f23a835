#!/bin/sh
# Provisioner: Puppet. Watches what this node depends on, and kicks the first run.
# From here on every run goes through `kick`, which is `ts`, which never lets two overlap.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=puppet
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=lib/sources.sh
. "$here/lib/sources.sh"

case ${1:-} in
    '') ;;
    --help)
        cat <<'END'
Usage: puppet.sh [--help]

The provisioner for Puppet. Metadata: puppet_source (openvox, or distribution for the system's own Puppet; default:
what the mirror or the system has, and openvox where it has none).

Exit status: 0 done, and the first run is kicked   1 something cannot be installed   2 usage   65 wrong metadata
END
        exit 0
        ;;
    *) die 2 "unknown argument: $1" ;;
esac

offered() {
    if [ "$(family)" = el ]; then command dnf -q list --available "$1" >/dev/null 2>&1; else apt-cache show "$1" >/dev/null 2>&1; fi
}

# OpenVox 8 is what current modules are written for; Debian 12's own Puppet is 7.
install_puppet() {
    source=$(meta puppet_source '')
    case $source in
        '') if offered puppet-agent; then package=puppet-agent; else package=openvox-agent; fi ;;
        openvox) package=openvox-agent ;;
        distribution) package=puppet-agent ;;
        *) die 65 "puppet_source is neither openvox nor distribution: '$source'" ;;
    esac
    [ $package = puppet-agent ] || [ -n "$(meta mirror_address '')" ] || vendor_source openvox
    install_packages $package || die 1 "the package $package cannot be installed"
}

# Debian's packages start what they bring. Until the first run that succeeded nobody has configured it: a database of its
# own would be there before the cluster that it is to join. A file that is there is somebody's decision, and stays.
policy=$root/usr/sbin/policy-rc.d
if [ "$(family)" = debian ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n[ -e /var/lib/stacktira/converged ] || exit 101\n' | atomic_write 0755 "$policy" || true
fi

command -v puppet >/dev/null 2>&1 || install_puppet

mkdir -p "$state_dir/puppet"

# Hiera for people and scripts on this node: the same file that Puppet uses.
atomic_write 0644 "$config_dir/hiera-consul.yaml" <<'EOF' || true
hiera_config: /opt/stacktira/provision/puppet/hiera.yaml
facts: /var/lib/stacktira/facts.json
EOF

# Where this node's packages come from; on the build node the file has the mirror's own sections too.
mirror=$(meta mirror_address '')
if [ -n "$mirror" ] && [ ! -s "$config_dir/site.sec.asc" ]; then
    if [ "$(family)" = el ]; then taken="formats: [rpm], sources: [el$(major)]"; else taken="formats: [deb]"; fi
    atomic_write 0644 "$config_dir/mirror.yaml" <<EOF || true
consul: {address: "http://127.0.0.1:8500", prefix: stacktira/mirror}
node: {mirror: "$mirror", channel: $(meta mirror_channel stable), role: $(fact role), keyring: $config_dir/site.asc, $taken, update: true}
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
