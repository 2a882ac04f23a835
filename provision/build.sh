#!/bin/sh
# Provisioner: build. The build node: packages and git of the whole cluster, as signed snapshots, served over HTTP.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=build
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
    cat <<'END'
Usage: build.sh [mirror] [--help]

  build.sh mirror   makes the first snapshot and serves it (before this node has any package source)
  build.sh          the provisioner of the role: records the channel in Consul, then Puppet as everywhere;
                    a mirror that is in no cluster (no consul_join) is done when it serves

Metadata: mirror_address, mirror_channel, mirror_debs (default: /srv/debs), mirror_extra_debs, mirror_git,
repos_manifest.

Exit status: 0 done   1 or mirror-sync's own: the mirror is not made   2 usage   65 no secret mirror   69 Consul has no leader
END
}

config=$config_dir/mirror.yaml

# write_config [consul]: without Consul until there is one, because a promotion must not move a
# pointer that it cannot move everywhere.
write_config() {
    url=$(meta mirror_address)
    {
        cat <<EOF
root: $state_dir/mirror
url: "$url"
signing_key: $config_dir/site.sec.asc
channels: [edge, canary, stable]
keep: 3
grace: 24h
sources:
  - {name: debian, type: deb, dir: $(meta mirror_debs /srv/debs), suites: [$codename], components: [main], architectures: [$architecture]}
EOF
        extra=$(meta mirror_extra_debs '')
        [ -z "$extra" ] || printf '  - {name: extra, type: deb, dir: %s, suites: [%s], components: [main], architectures: [%s]}\n' "$extra" "$codename" "$architecture"
        upstream=$(meta mirror_git '')
        printf '  - {name: modules, type: git, manifest: %s%s}\n' "$here/$(meta repos_manifest ../repos.yaml)" "${upstream:+, mirror: $upstream}"
        [ "${1:-}" != consul ] || printf 'consul: {address: "http://127.0.0.1:8500", prefix: stacktira/mirror}\n'
        node_section
    } | atomic_write 0644 "$config" || true
}

node_section() {
    printf 'node: {mirror: "%s", channel: %s, role: %s, keyring: %s, formats: [deb], update: true}\n' \
        "$(meta mirror_address)" "$(meta mirror_channel stable)" "$(meta role build)" "$config_dir/site.asc"
}

mirror() {
    codename=$(release VERSION_CODENAME)
    architecture=$(dpkg --print-architecture)
    if [ -z "$root" ] && [ ! -x "$bin/mirror-sync" ]; then
        dpkg --install --skip-same-version "$(meta mirror_debs /srv/debs)"/stacktira_*.deb >&2
    fi
    if [ ! -s "$config_dir/site.sec.asc" ]; then
        "$bin/mirror-sync" keygen --out "$config_dir/site.sec.asc" --public "$config_dir/site.asc"
    fi
    write_config "$@"
    if [ ! -s "$state_dir/mirror/pub/channel/$(meta mirror_channel stable).json" ]; then
        "$bin/mirror-sync" --config "$config" sync
        snapshot=$("$bin/mirror-sync" --config "$config" snapshot)
        "$bin/mirror-sync" --config "$config" promote "$snapshot" --channel "$(meta mirror_channel stable)"
    fi
    if systemd_running; then
        systemctl daemon-reload
        systemctl enable --quiet --now stacktira-mirror.service
    fi
    : >"$state_dir/mirror.ready"
}

case ${1:-} in
    mirror) mirror ;;
    '')
        if [ -z "$(meta consul_join '')" ]; then
            mirror
            exit 0
        fi
        mirror consul
        if systemd_running; then
            retry 300 consul_answers || die 69 "Consul has no leader after 300 s"
            channel=$(meta mirror_channel stable)
            if ! "$bin/consul-kv" get "stacktira/mirror/channel/$channel" >/dev/null 2>&1; then
                [ ! -s "$config_dir/consul.token" ] || [ -s "$config_dir/secrets/mirror" ] ||
                    die 65 "no secret mirror in $config_dir/secrets: this node may not record the channel $channel in Consul; next: provision/secrets.sh"
                retry 120 "$bin/mirror-sync" --config "$config" promote "$(json_get "$state_dir/mirror/pub/channel/$channel.json" snapshot)" --channel "$channel"
            fi
        fi
        exec "$here/puppet.sh"
        ;;
    --help) usage ;;
    *) usage >&2; die 2 "unknown argument: $1" ;;
esac
