#!/bin/sh
# Provisioner: confd. Renders this node's templates with confd instead of Puppet: an example of how another tool takes
# part. Runs go through `ts` and start when something changes in Consul, as Puppet's do.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=confd
# shellcheck source=lib.sh
. "$here/lib.sh"

case ${1:-} in
    '') ;;
    --help)
        cat <<'END'
Usage: confd.sh [--help]

The provisioner for confd. Templates are in /etc/confd (conf.d and templates), keys are Consul's below confd_prefix of
the metadata (default: /hiera/common). The program is the package confd, or one that is here already.

Exit status: 0 done, and the first run is kicked   1 confd cannot be installed   2 usage
END
        exit 0
        ;;
    *) die 2 "unknown argument: $1" ;;
esac

prefix=$(meta confd_prefix /hiera/common)
fits confd_prefix "$prefix" '/[0-9A-Za-z._/-]*'
command -v confd >/dev/null 2>&1 || install_packages confd || die 1 "confd is not here and cannot be installed; next: put the program into the image"
mkdir -p "$root/etc/confd/conf.d" "$root/etc/confd/templates"
atomic_write 0644 "$root/etc/confd/confd.toml" <<END || true
backend = "consul"
nodes = ["127.0.0.1:8500"]
prefix = "$prefix"
onetime = true
END
# The token of this node is for confd alone: in the environment of this one program.
atomic_write 0755 "$config_dir/confd-run" <<'END' || true
#!/bin/sh
set -eu
[ ! -r /etc/stacktira/consul.token ] || { CONSUL_HTTP_TOKEN=$(cat /etc/stacktira/consul.token); export CONSUL_HTTP_TOKEN; }
exec confd -config-file /etc/confd/confd.toml
END
atomic_write 0644 "$config_dir/watch.yaml" <<END || true
max_wait: 30s
watches:
  - name: confd
    type: keyprefix
    prefix: ${prefix#/}/
    debounce: 200ms..2s
    run: [/opt/stacktira/bin/ts, --queue, converge, --success, "0", --backoff, 5s..2m, /etc/stacktira/confd-run]
END
if systemd_running; then
    systemctl daemon-reload
    systemctl enable --quiet --now stacktira-watch.service
    /opt/stacktira/bin/ts --queue converge --success 0 --backoff 5s..2m /etc/stacktira/confd-run >/dev/null
fi
log "confd renders below $prefix"
