# shellcheck shell=bash
# What the nodes of a role have in common is installed once, from the packages that become the mirror, into a layer
# between the image and their roots. Puppet finds it done; without the layer it does the same, later.

# Prints the directory that lies over the image for this role, nothing when the role has no packages of its own.
layer_ensure() {
    local role=$1 box=$2 pool=$3 layer
    [ -n "$(role_packages "$role")" ] || return 0
    layer=$cache/layer-$role-$({
        basename "$box"
        basename "$pool"
        role_packages "$role"
        cat "$here/lib/layer.sh"
    } | digest_of)
    [ -e "$layer.complete" ] || with_lock "$layer.lock" layer_build "$role" "$box" "$pool" "$layer" >&2
    printf '%s\n' "$layer"
}

# An index for apt of the packages that are here already.
layer_index() {
    local pool=$1 deb
    [ ! -e "$pool/Packages" ] || return 0
    for deb in "$pool"/debs/*.deb; do
        dpkg-deb --field "$deb"
        printf 'Filename: ./debs/%s\nSize: %s\nSHA256: %s\n\n' "$(basename "$deb")" "$(stat -c %s "$deb")" "$(sha256sum <"$deb" | cut -d' ' -f1)"
    done >"$pool/Packages.new"
    mv "$pool/Packages.new" "$pool/Packages"
}

layer_build() {
    local role=$1 box=$2 pool=$3 layer=$4 work
    [ ! -e "$layer.complete" ] || return 0
    rm -rf --one-file-system "$layer"
    mkdir -p "$layer"
    work=$(mktemp -d "$cache/install.XXXXXX")
    mkdir "$work/work" "$work/root"
    with_lock "$cache/index.lock" layer_index "$pool"
    role_packages "$role" >"$work/packages"
    # A mount namespace of its own: whatever happens, no mount is left. Nothing in the machine reaches a network.
    if ! unshare --mount --propagation private bash -euc '
        box=$1 layer=$2 work=$3 pool=$4
        mount -t overlay stk-layer -o "lowerdir=$box,upperdir=$layer,workdir=$work/work" "$work/root"
        printf "#!/bin/sh\nexit 101\n" >"$work/root/usr/sbin/policy-rc.d"
        chmod 755 "$work/root/usr/sbin/policy-rc.d"
        printf "force-unsafe-io\n" >"$work/root/etc/dpkg/dpkg.cfg.d/stacktira-layer"
        mkdir -p "$work/root/srv/debs"
        printf "deb [trusted=yes] file:/srv ./\n" >"$work/root/srv/layer.list"
        cp "$pool/Packages" "$work/root/srv/Packages"
        # Some packages ask for the address of the machine that they come to, and end without one.
        printf "127.0.0.1 localhost layer\n" >"$work/root/etc/hosts"
        systemd-nspawn --quiet --register=no --keep-unit --pipe --hostname=layer --private-network --resolv-conf=off --timezone=off --link-journal=no \
            --directory="$work/root" --bind-ro="$pool/debs:/srv/debs" \
            --setenv=DEBIAN_FRONTEND=noninteractive \
            sh -euc "
                options=\"-q -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Dir::Etc::SourceList=/srv/layer.list -o Dir::Etc::SourceParts=/dev/null\"
                apt-get \$options update
                apt-get \$options -y install \$*
                apt-get clean
            " install $(cat "$work/packages")
        # Whatever is to be different on each machine is made by the machine itself.
        cd "$work/root"
        rm -rf var/lib/apt/lists/* var/lib/rabbitmq/.erlang.cookie etc/iscsi/initiatorname.iscsi etc/ssl/private/ssl-cert-snakeoil.key \
            etc/ssl/certs/ssl-cert-snakeoil.pem var/lib/dbus/machine-id etc/dpkg/dpkg.cfg.d/stacktira-layer usr/sbin/policy-rc.d srv/layer.list srv/Packages srv/debs
        : >etc/machine-id
        rm -f etc/hosts etc/hostname
    ' layer "$box" "$layer" "$work" "$pool" >"$layer.log" 2>&1; then
        tail -n 5 "$layer.log" >&2
        rm -rf --one-file-system "$work"
        die 1 "the packages of the role $role could not be installed; log: $layer.log"
    fi
    rm -rf --one-file-system "$work"
    sync -f "$layer"
    : >"$layer.complete"
    lap "layer of the role $role made ($(grep -c '^Setting up ' "$layer.log") packages, $(du -sm "$layer" | cut -f1) MB)"
}
