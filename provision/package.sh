#!/bin/sh
# Packs the built tools, the provisioning and its units as one Debian package.
set -eu

usage='Usage: package.sh BINARIES VERSION OUTPUT_DIRECTORY

Packs the programs in BINARIES with provision/ as OUTPUT_DIRECTORY/stacktira_*.deb, and prints its path.'
[ "${1:-}" != --help ] || { printf '%s\n' "$usage"; exit 0; }
[ $# -eq 3 ] || { printf '%s\n' "$usage" >&2; exit 2; }
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
binaries=$1
version=$2
output=$3
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

install -d "$work/opt/stacktira/bin" "$work/opt/stacktira/provision" "$work/lib/systemd/system" "$work/DEBIAN"
for tool in cloner ts consul-watch-handler hiera-consul mirror-sync consul-kv consul-elect node-metadata; do
    install -m 755 "$binaries/$tool" "$work/opt/stacktira/bin/$tool"
done
cp -r "$here/." "$work/opt/stacktira/provision/"
cp "$here/../repos.yaml" "$work/opt/stacktira/repos.yaml"
install -d "$work/opt/stacktira/share"
install -m 755 "$here/../crates/ts/doc/puppet-shim" "$work/opt/stacktira/share/puppet-shim"
for unit in stacktira-acl.service stacktira-metadata.service stacktira-watch.service stacktira-converge.service stacktira-converge.timer stacktira-mirror.service \
    stacktira-mirror-sync.service stacktira-mirror-sync.timer; do
    install -m 644 "$here/systemd/$unit" "$work/lib/systemd/system/$unit"
done
if [ -d "$binaries/../man" ]; then
    install -d "$work/usr/share/man/man1"
    for page in "$binaries"/../man/*.1; do
        # `ts` is another package's page too; ours is found below /opt.
        install -d "$work/opt/stacktira/share/man/man1"
        gzip -9nc "$page" >"$work/opt/stacktira/share/man/man1/$(basename "$page").gz"
    done
    rmdir "$work/usr/share/man/man1" "$work/usr/share/man" "$work/usr/share" "$work/usr"
fi
chmod -R u+rwX,go+rX,go-w "$work"

# The version names the content, so that another build is another package.
digest=$(cd "$work" && find opt lib -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
cat >"$work/DEBIAN/control" <<EOF
Package: stacktira
Version: $version+$(date -u -d "@$(stat -c %Y "$binaries/ts")" +%Y%m%d%H%M%S).$digest
Architecture: $architecture
Maintainer: Stacktira <stacktira@localhost>
Depends: libc6, libgcc-s1, git, ca-certificates, curl
Section: admin
Priority: optional
Description: clusters that provision themselves, with Consul at the centre and Puppet on every node
 The tools cloner, ts, consul-watch-handler, hiera-consul, mirror-sync, consul-kv, consul-elect and
 node-metadata below /opt/stacktira, the provisioning scripts and the units that run them.
EOF
mkdir -p "$output"
rm -f "$output"/stacktira_*.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$work" "$output" >/dev/null
ls "$output"/stacktira_*.deb
