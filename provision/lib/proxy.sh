# shellcheck shell=sh
# Step of bootstrap.sh: proxy. The way out for package managers, git and services; never for the cluster itself.

set_proxy() {
    proxy=$(meta proxy '')
    if [ -z "$proxy" ]; then
        remove_proxy
        return 0
    fi
    # Everybody on the node can read these files, so a password has no place in them.
    fits "the proxy (http://HOST:PORT, without user and password)" "$proxy" 'https?://[0-9A-Za-z._-]+(:[0-9]{1,5})?/?'
    direct="localhost,127.0.0.1,::1,169.254.169.254"
    for word in "$(meta no_proxy '')" "$(meta consul_join '')" "$(host_of "$(meta mirror_address '')")" "$(meta vip '')" \
        "$(own_network)" "$(meta domain '' | sed 's/^\(.\)/.\1/')"; do
        [ -z "$word" ] || direct="$direct,$word"
    done
    fits "the list of --no-proxy" "$direct" '[][0-9A-Za-z.:/,*_-]+'
    shell_proxy | atomic_write 0644 "$root/etc/profile.d/stacktira-proxy.sh" || true
    services_proxy | atomic_write 0644 "$root/etc/systemd/system.conf.d/50-stacktira-proxy.conf" || true
    if [ "$(family)" = el ]; then
        # dnf has one section, [main], and takes its last word.
        printf 'proxy=%s\n' "$proxy" | managed_block "$root/etc/dnf/dnf.conf" || true
    else
        apt_proxy | atomic_write 0644 "$root/etc/apt/apt.conf.d/80stacktira-proxy" || true
    fi
    http_proxy=$proxy https_proxy=$proxy no_proxy=$direct
    export http_proxy https_proxy no_proxy
    told "$proxy, but not for $direct"
}

remove_proxy() {
    found=
    for file in /etc/profile.d/stacktira-proxy.sh /etc/systemd/system.conf.d/50-stacktira-proxy.conf /etc/apt/apt.conf.d/80stacktira-proxy; do
        [ ! -e "$root$file" ] || { found=yes; change rm -f "$root$file"; }
    done
    if [ -f "$root/etc/dnf/dnf.conf" ] && grep -q '^# BEGIN stacktira$' "$root/etc/dnf/dnf.conf"; then
        sed '/^# BEGIN stacktira$/,/^# END stacktira$/d' "$root/etc/dnf/dnf.conf" | atomic_write 0644 "$root/etc/dnf/dnf.conf" || true
        found=yes
    fi
    told "none${found:+ any more}"
}

host_of() { printf '%s' "$1" | sed -e 's|^[a-z]*://||' -e 's|[:/].*||'; }

# The networks that this node is in, as its addresses and masks say them.
own_network() {
    ip -4 -o addr show scope global 2>/dev/null | awk '{ split($4, part, "/"); split(part[1], n, "."); bits = part[2]
        if (bits == "" || bits == 32) next
        value = ((n[1] * 256 + n[2]) * 256 + n[3]) * 256 + n[4]; size = 2 ^ (32 - bits); value = value - value % size
        printf "%s%d.%d.%d.%d/%d", sep, int(value / 16777216), int(value / 65536) % 256, int(value / 256) % 256, value % 256, bits; sep = "," }'
}

shell_proxy() {
    for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; do printf 'export %s=%s\n' "$name" "$proxy"; done
    for name in no_proxy NO_PROXY; do printf 'export %s=%s\n' "$name" "$direct"; done
}

services_proxy() {
    printf '[Manager]\nDefaultEnvironment="http_proxy=%s" "https_proxy=%s" "no_proxy=%s"\n' "$proxy" "$proxy" "$direct"
}

apt_proxy() {
    printf 'Acquire::http::Proxy "%s";\nAcquire::https::Proxy "%s";\n' "$proxy" "$proxy"
    mirror_host=$(host_of "$(meta mirror_address '')")
    [ -z "$mirror_host" ] || printf 'Acquire::http::Proxy::%s "DIRECT";\nAcquire::https::Proxy::%s "DIRECT";\n' "$mirror_host" "$mirror_host"
}
