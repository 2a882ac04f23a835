# shellcheck shell=bash
# One node: overlay, seed, boot, entry, power switches.

# Prints the host's pid of the node's init if it lives. The record holds its start time too, so that a
# number that was given to another process is not taken for it.
machine_pid() {
    local pid start
    read -r pid start 2>/dev/null <"$state/$1/init" || return 1
    [ "$(machine_start_time "$pid")" = "$start" ] || return 1
    printf '%s\n' "$pid"
}

machine_start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'; }

machine_mount() {
    local node=$1 lower=$2 dir=$state/$1
    mkdir -p "$dir/up" "$dir/work" "$dir/root"
    mountpoint -q "$dir/root" || mount -t overlay "$prefix-$node" -o "lowerdir=$lower,upperdir=$dir/up,workdir=$dir/work" "$dir/root"
}

# Whether packages of its role are in the node's root before it boots for the first time.
layered() { grep -qs : "$state/$(role_of "$1").lower"; }

# What a cloud would give the machine before its first boot: its name, a config drive and a unit that
# runs the bootstrap. Everything else the node fetches itself.
machine_seed() {
    local node=$1 root=$state/$1/root
    [ ! -e "$state/$node/seeded" ] || return 0
    printf '%s\n' "$node" >"$root/etc/hostname"
    {
        printf '127.0.0.1 localhost\n'
        node_list | awk -v domain="$domain" '{ printf "%s %s.%s %s\n", $3, $1, domain, $1 }'
    } >"$root/etc/hosts"
    : >"$root/etc/resolv.conf"
    mkdir -p "$root/var/log/journal" "$root/vagrant" "$root/mnt/config/openstack/latest" "$root/etc/stacktira"
    machine_metadata "$node" >"$root/mnt/config/openstack/latest/meta_data.json"
    if [ "$(role_of "$node")" = build ]; then
        mkdir -p "$root/srv/debs" "$root/srv/extra" "$root/srv/git"
        install -m 600 "$state/site.sec.asc" "$root/etc/stacktira/site.sec.asc"
    fi
    # Packages must not start services that nobody has configured yet: not before the first run that succeeded.
    printf '#!/bin/sh\n[ -e /var/lib/stacktira/converged ] || exit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    "$repo/provision/secrets.sh" install "$state/secrets" "$(role_of "$node")" "$root/etc/stacktira/secrets"
    install -m 644 "$repo/provision/systemd/stacktira-bootstrap.service" "$root/etc/systemd/system/"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../stacktira-bootstrap.service "$root/etc/systemd/system/multi-user.target.wants/"
    # What a layer has brought is enabled already. Until the first run that succeeded the machine boots without it.
    cat >"$root/etc/systemd/system/stacktira-first.target" <<'EOF'
[Unit]
Description=A machine whose services nobody has configured yet
Requires=basic.target
After=basic.target
Wants=stacktira-bootstrap.service consul.service stacktira-watch.service stacktira-converge.service
AllowIsolate=yes
EOF
    : >"$state/$node/seeded"
}

machine_metadata() {
    local node=$1 build join controls key
    build=$(address_of "$(nodes_of_role build | sed -n 1p)")
    join=$(for peer in $(nodes_of_role infra); do address_of "$peer"; done | paste -sd,)
    controls=$(for peer in $(nodes_of_role control); do printf '%s=%s\n' "$peer" "$(address_of "$peer")"; done | paste -sd,)
    key=$(awk '{ printf "%s\\n", $0 }' "$state/site.asc")
    cat <<EOF
{
  "hostname": "$node.$domain",
  "name": "$node",
  "meta": {
    "role": "$(role_of "$node")",
    "provider": "local",
    "stage": "$stage",
    "openstack": "zed",
    "provisioner": "puppet",
    "domain": "$domain",
    "internal_interface": "enp0s8",
    "external_interface": "enp0s9",
    "mirror_address": "http://$build:8080",
    "mirror_channel": "stable",
    "mirror_key": "$key",
    "mirror_debs": "/srv/debs",
    "mirror_extra_debs": "${STK_LOCAL_EXTRA_DEBS:+/srv/extra}",
    "mirror_git": "/srv/git",
    "repos_manifest": "local/repos.yaml",
    "consul_join": "$join",
    "consul_servers": "$(nodes_of_role infra | wc -l)",
    "control_nodes": "$controls",
    "vip": "$(address_of "$(nodes_of_role proxy | sed -n 1p)")"
  }
}
EOF
}

machine_boot() {
    local node=$1 dir=$state/$1 pid supervisor
    ! machine_pid "$node" >/dev/null || return 0
    rm -f "$dir/init"
    machine_make_cgroups "$node"
    local options=(--quiet --register=no --keep-unit "--machine=$node" "--hostname=$node" "--directory=$dir/root"
        --resolv-conf=off --timezone=off --link-journal=no --capability=all --setenv=SYSTEMD_LOG_TARGET=journal
        "--bind-ro=${repo//:/\\:}:/vagrant")
    if [ "$(role_of "$node")" = build ]; then
        options+=("--bind-ro=$state/debs:/srv/debs" "--bind-ro=$(cat "$state/git"):/srv/git")
        [ -z "${STK_LOCAL_EXTRA_DEBS:-}" ] || options+=("--bind-ro=$(readlink -f "$STK_LOCAL_EXTRA_DEBS"):/srv/extra")
    fi
    if [ "$(role_of "$node")" = control ] && [ -s "$state/guest" ]; then
        options+=("--bind-ro=$(cat "$state/guest"):/srv/guest")
    fi
    # `script` gives the console that systemd-nspawn wants; it runs the launcher, so nothing is quoted twice.
    {
        printf '#!/bin/sh\nexec nsenter --net=/run/netns/%s env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn' "$prefix-$node"
        printf ' %q' "${options[@]}" --boot
        ! layered "$node" || [ -e "$dir/root/var/lib/stacktira/converged" ] || printf ' systemd.unit=stacktira-first.target'
        printf '\n'
    } >"$dir/launch"
    chmod 700 "$dir/launch"
    (
        machine_join_cgroups "$node"
        exec setsid script --quiet --flush --return --command "$dir/launch" "$dir/console.log" </dev/null >/dev/null 2>&1 9>&-
    ) &
    supervisor=$!
    local attempt
    for attempt in $(seq 200); do
        for pid in $(machine_descendants "$supervisor"); do
            if [ "$(readlink "/proc/$pid/ns/pid" 2>/dev/null)" != "$(readlink /proc/self/ns/pid)" ] && [ -e "/proc/$pid/ns/pid" ]; then
                printf '%s %s\n' "$pid" "$(machine_start_time "$pid")" >"$dir/init.new"
                mv "$dir/init.new" "$dir/init"
                return 0
            fi
        done
        kill -0 "$supervisor" 2>/dev/null || break
        sleep 0.05
    done
    machine_kill_leftovers "$node"
    tail -n 5 "$dir/console.log" >&2
    die 1 "$node did not boot in $((attempt / 20)) s; log: $dir/console.log"
}

# The children of a process and theirs, nearest first: between `script` and the node's init stand as many
# as the shell and nsenter make of it.
machine_descendants() {
    local level=$1 depth
    for depth in 1 2 3 4 5 6; do
        level=$(for parent in $level; do pgrep -P "$parent" || true; done)
        [ -n "$level" ] || return 0
        printf '%s\n' "$level"
    done
}

machine_exec() {
    local node=$1 pid token=
    shift
    [ ! -e "$state/$node/root/etc/stacktira/consul.token" ] || token=CONSUL_HTTP_TOKEN_FILE=/etc/stacktira/consul.token
    pid=$(machine_pid "$node") || die 1 "$node is not running; next: stk-local up $node"
    (
        machine_join_cgroups "$node"
        exec nsenter --target "$pid" --all --root --wdns=/ -- /usr/bin/env -i \
            PATH=/opt/stacktira/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" DEBIAN_FRONTEND=noninteractive \
            CONSUL_HTTP_ADDR=127.0.0.1:8500 ${token:+"$token"} "$@" 9>&-
    )
}

machine_wait_gone() {
    local node=$1 seconds=$2 step
    for step in $(seq $((seconds * 10))); do
        machine_pid "$node" >/dev/null || return 0
        sleep 0.1
        [ $((step % 100)) -ne 0 ] || say "$node is still shutting down after $((step / 10)) s"
    done
    return 1
}

machine_crash() {
    local pid
    pid=$(machine_pid "$1") || return 0
    kill -KILL "$pid"
    machine_wait_gone "$1" 30 || die 1 "$1 does not die (pid $pid)"
}

# RTMIN+4 asks systemd to power off. Its slowest units may take five minutes.
machine_halt() {
    local pid
    pid=$(machine_pid "$1") || return 0
    kill -s RTMIN+4 "$pid"
    machine_wait_gone "$1" 330 || die 1 "$1 did not shut down in 330 s; it still runs (pid $pid); next: stk-local crash $1"
}

machine_remove() {
    local node=$1 group
    machine_crash "$node"
    machine_kill_leftovers "$node"
    local attempt
    for attempt in $(seq 50); do
        ! mountpoint -q "$state/$node/root" || umount "$state/$node/root" 2>/dev/null || { sleep 0.1; continue; }
        break
    done
    ! mountpoint -q "$state/$node/root" || umount --lazy "$state/$node/root" || die 1 "$node: its root cannot be unmounted (attempt $attempt)"
    network_remove "$node"
    for group in $(machine_cgroups "$node"); do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
    rm -rf --one-file-system "${state:?}/$node"
}
