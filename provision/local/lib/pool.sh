# shellcheck shell=bash
# The packages that become the build node's mirror: fetched by apt itself, relative to the image.

# Those of this stage and of the stages before it; of one role, or of all.
pool_packages() { packages_of '' | sort -u; }
role_packages() { packages_of "$1"; }

packages_of() {
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$here/packages.list" |
        awk -v stage="$stage" -v role="$1" '
            /^\[/ {
                split(substr($0, 2, length($0) - 2), section, " ")
                if (last && section[1] != stage) exit
                last = (section[1] == stage)
                wanted = (role == "" || section[2] == role)
                next
            }
            wanted { print }'
}

# Debian's Puppet modules are fetched as packages and served as git repositories.
pool_modules() {
    printf 'puppet-module-%s\n' glance keystone neutron nova openstacklib oslo placement vswitch puppetlabs-stdlib puppetlabs-inifile puppetlabs-mysql \
        puppetlabs-concat puppetlabs-haproxy puppetlabs-apache puppetlabs-translate nanliu-staging \
        puppetlabs-apt puppetlabs-postgresql puppetlabs-rabbitmq
}

# What the test guest is made of, where there is a cloud to test.
pool_guest() { [ "$stage" != cloud ] || image_packages; }

pool_path() {
    local key
    key=$(
        {
            basename "$1"
            pool_packages
            pool_modules
            pool_guest
        } | digest_of
    )
    printf '%s/pool-%s\n' "$cache" "$key"
}

# Fetches what is missing; prints the directory, which holds debs/ and modules/.
pool_ensure() {
    local box=$1 pool
    pool=$(pool_path "$box")
    [ -e "$pool/complete" ] || with_lock "$cache/pool.lock" pool_fetch "$box" "$pool" >&2
    printf '%s\n' "$pool"
}

pool_fetch() {
    local box=$1 pool=$2
    [ ! -e "$pool/complete" ] || return 0
    mkdir -p "$pool/debs/partial" "$pool/modules" "$pool/guest"
    local work
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    mkdir "$work/up" "$work/work" "$work/root"
    # A namespace of its own: whatever happens, no mount is left.
    if ! pool_packages >"$work/packages" || ! pool_modules >"$work/modules" || ! pool_guest >"$work/guest" ||
        ! unshare --mount --propagation private bash -euc '
            box=$1 work=$2 pool=$3 settings=$4
            mount -t overlay stk-fetch -o "lowerdir=$box,upperdir=$work/up,workdir=$work/work" "$work/root"
            root=$work/root
            cat /etc/resolv.conf >"$root/etc/resolv.conf" 2>/dev/null || true
            cat /etc/hosts >"$root/etc/hosts" 2>/dev/null || true
            cp "$settings" "$root/etc/apt/apt.conf.d/90stacktira"
            mkdir -p "$root/srv/debs" "$root/srv/modules" "$root/srv/guest"
            mount --bind "$pool/debs" "$root/srv/debs"
            mount --bind "$pool/modules" "$root/srv/modules"
            mount --bind "$pool/guest" "$root/srv/guest"
            options="-q -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Dir::Cache::archives=/srv/debs"
            chroot "$root" apt-get $options update
            chroot "$root" apt-get $options -y --download-only install $(cat "$work/packages")
            chroot "$root" env --chdir=/srv/modules apt-get $options download $(cat "$work/modules")
            for package in $(cat "$work/guest"); do
                # A kernel comes by the package that always depends on the newest.
                real=$(chroot "$root" apt-cache depends --important "$package" | sed -n "s/^ *Depends: \(linux-image-.*\)/\1/p" | sed -n 1p)
                chroot "$root" env --chdir=/srv/guest apt-get $options download "${real:-$package}"
            done
        ' fetch "$box" "$work" "$pool" "$cache/apt.conf" >"$cache/pool.log" 2>&1; then
        tail -n 5 "$cache/pool.log" >&2
        rm -rf --one-file-system "$work"
        die 1 "packages could not be fetched; log: $cache/pool.log"
    fi
    rm -rf --one-file-system "$work" "$pool/debs/partial" "$pool/debs/lock"
    : >"$pool/complete"
    lap "packages fetched ($(find "$pool/debs" -name '*.deb' | wc -l) packages, $(du -sm "$pool/debs" | cut -f1) MB)"
}

# Prints the path of a Consul package: given, or made of a given binary, or the distribution's.
consul_ensure() {
    local given=${STACKTIRA_CONSUL:-}
    mkdir -p "$cache/consul"
    case $given in
        '') ;;
        *.deb)
            dpkg-deb --info "$given" >/dev/null 2>&1 || die 1 "STACKTIRA_CONSUL is no package: $given"
            readlink -f "$given"
            return
            ;;
        *)
            [ -x "$given" ] || die 1 "STACKTIRA_CONSUL is neither a .deb nor a program: $given"
            consul_package "$given"
            return
            ;;
    esac
    if command -v consul >/dev/null 2>&1; then
        consul_package "$(command -v consul)"
        return
    fi
    local deb
    deb=$(find "$cache/consul" -name 'consul_*_*.deb' ! -name '*+local*' | sed -n 1p)
    if [ -z "$deb" ]; then
        with_lock "$cache/consul.lock" consul_fetch >&2
        deb=$(find "$cache/consul" -name 'consul_*_*.deb' ! -name '*+local*' | sed -n 1p)
    fi
    printf '%s\n' "$deb"
}

# Wraps a binary as a package with the unit that the distribution's has.
consul_package() {
    local binary=$1 version work deb
    version=$("$binary" version | sed -n 's/^Consul v\([0-9.]*\).*/\1/p')
    [ -n "$version" ] || die 1 "this does not answer as Consul does: $binary"
    deb=$cache/consul/consul_${version}+local$(digest_of <"$binary")_$(dpkg --print-architecture).deb
    if [ ! -e "$deb" ]; then
        work=$(mktemp -d "$cache/consul/build.XXXXXX")
        install -D -m 755 "$binary" "$work/usr/bin/consul"
        install -D -m 644 "$repo/provision/systemd/consul.service" "$work/lib/systemd/system/consul.service"
        mkdir -p "$work/DEBIAN" "$work/etc/consul.d"
        printf 'Package: consul\nVersion: %s+local\nArchitecture: %s\nMaintainer: local build\nDepends: adduser\nDescription: Consul, as given by STACKTIRA_CONSUL\n' \
            "$version" "$(dpkg --print-architecture)" >"$work/DEBIAN/control"
        printf '#!/bin/sh\nset -e\nadduser --system --group --quiet --home /var/lib/consul consul\n' >"$work/DEBIAN/postinst"
        chmod 755 "$work/DEBIAN/postinst"
        dpkg-deb --root-owner-group -Zgzip --build "$work" "$deb.new" >/dev/null
        mv "$deb.new" "$deb"
        rm -rf "$work"
    fi
    printf '%s\n' "$deb"
}

# Fetches the distribution's Consul (bullseye was the last suite to have it).
consul_fetch() {
    [ -z "$(find "$cache/consul" -name 'consul_*_*.deb' ! -name '*+local*')" ] || return 0
    local work apt_options=()
    work=$(mktemp -d "$cache/consul/fetch.XXXXXX")
    foreign_apt "$work" bullseye
    if ! (cd "$work" && apt-get "${apt_options[@]}" update && apt-get "${apt_options[@]}" download consul/bullseye) >"$cache/consul.log" 2>&1; then
        tail -n 3 "$cache/consul.log" >&2
        rm -rf "$work"
        die 1 "Consul could not be fetched; log: $cache/consul.log; next: give one by STACKTIRA_CONSUL"
    fi
    mv "$work"/consul_*.deb "$cache/consul/"
    rm -rf "$work"
    lap "consul fetched"
}

# Prints the package of the tools.
tools_package() {
    local deb=${STACKTIRA_DEB:-}
    [ -n "$deb" ] || deb=$(find "$repo/target/deb" -name 'stacktira_*.deb' -printf '%T@ %p\n' 2>/dev/null | sort -rn | awk 'NR == 1 { print $2 }')
    [ -e "$deb" ] || die 1 "the package of the tools is not built; next: make deb"
    printf '%s\n' "$deb"
}

# Lays out, by links, the directory that the build node mirrors.
pool_assemble() {
    local pool=$1 target=$state/debs
    rm -rf "$target.new"
    mkdir -p "$target.new"
    cp -l "$pool"/debs/*.deb "$target.new/"
    cp "$(consul_ensure)" "$(tools_package)" "$target.new/"
    # The directory is bound into the build node: its content is replaced, not the directory itself.
    mkdir -p "$target"
    find "$target.new" -name '*.deb' -printf '%f\n' | sort >"$state/debs.wanted"
    find "$target" -name '*.deb' -printf '%f\n' | sort | comm -23 - "$state/debs.wanted" | while read -r gone; do rm -f "$target/$gone"; done
    while read -r wanted; do
        cmp -s "$target.new/$wanted" "$target/$wanted" || mv -f "$target.new/$wanted" "$target/$wanted"
    done <"$state/debs.wanted"
    rm -rf "$target.new"
}
