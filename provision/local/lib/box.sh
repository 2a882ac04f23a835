# shellcheck shell=bash
# The image that every node's root is laid over: a minimal Debian with systemd, Puppet and git.

box_codename=bookworm
box_packages=systemd,systemd-sysv,dbus,ca-certificates,iproute2,iputils-ping,procps,curl,netbase,less,git,puppet-agent
box_masked="e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
systemd-logind.service console-getty.service getty.target puppet.service systemd-timesyncd.service"

# The sources of a release of Debian, as one-line entries: where this machine has its own from. No host is named here.
apt_sources() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg own
    own=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format "deb [signed-by=$keyring] \$(SITE) \$(RELEASE) \$(COMPONENT)" 'Created-By: Packages' 'Origin: Debian' |
        grep -E " ${own}(-updates|-security)? " | sed "s/ $own\([ -]\)/ $1\1/" | sort -u
}

# foreign_apt DIRECTORY CODENAME: an apt for a release of Debian, from where this machine's comes, with its state in the
# directory, so that the machine's own is not touched. Its options are left in apt_options.
foreign_apt() {
    local site
    # shellcheck disable=SC2016 # apt fills this in
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u | sed -n 1p)
    [ -n "$site" ] || die 77 "apt knows no Debian sources on this machine; next: apt-get update"
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg arch=amd64] %s %s main\n' "$site" "$2" >"$1/sources.list"
    # shellcheck disable=SC2034 # for the caller
    apt_options=(-q -o "Dir::Etc::SourceList=$1/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
}

# The machine's own settings for reaching them (proxies, retries, dates).
apt_settings() {
    # shellcheck disable=SC1083 # apt-config's own format
    apt-config dump --no-empty --format '%F "%v";%n' |
        grep -E '^Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv[46])' || true
}

box_path() {
    local key
    key=$(
        {
            printf '%s\n' "$box_codename" "$box_packages" "$box_masked"
            apt_sources "$box_codename"
        } | digest_of
    )
    printf '%s/box-%s\n' "$cache" "$key"
}

# Builds the image unless it is there; prints its directory.
box_ensure() {
    local box
    box=$(box_path)
    [ -e "$box/etc/os-release" ] || with_lock "$cache/box.lock" box_build "$box" >&2
    printf '%s\n' "$box"
}

box_build() {
    local box=$1 new=$1.new sources
    [ ! -e "$box/etc/os-release" ] || return 0
    rm -rf --one-file-system "$new"
    sources=$(apt_sources "$box_codename")
    [ -n "$sources" ] || die 77 "apt knows no sources for Debian $box_codename on this machine; next: apt-get update"
    apt_settings >"$cache/apt.conf"
    local log=$cache/box.log masked
    masked=$(printf '%s ' $box_masked)
    if ! printf '%s\n' "$sources" | mmdebstrap --quiet --variant=minbase --mode=root \
        --aptopt="$cache/apt.conf" --aptopt='APT::Install-Recommends "false"' \
        --include="$box_packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io \
        --customize-hook='rm -f "$1/etc/hostname" "$1/etc/resolv.conf"; : >"$1/etc/machine-id"' \
        --customize-hook="chroot \"\$1\" systemctl mask $masked || true" \
        "$box_codename" "$new" - >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        die 1 "the image could not be built; log: $log"
    fi
    sync -f "$new"
    mv -T "$new" "$box"
    lap "image built ($(du -sm "$box" | cut -f1) MB)"
}
