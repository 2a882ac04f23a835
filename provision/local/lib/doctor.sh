# shellcheck shell=bash
# What the environment needs of this machine.

# Prints one line per thing that is missing.
doctor_missing() {
    [ "$(id -u)" = 0 ] || printf 'root: run as root\n'
    local pair
    for pair in systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ip:iproute2 nsenter:util-linux \
        script:bsdutils setsid:util-linux git:git dpkg-deb:dpkg curl:curl pgrep:procps flock:util-linux; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s: apt-get install %s\n' "${pair%%:*}" "${pair##*:}"
    done
    grep -qw overlay /proc/filesystems || printf 'overlay: the kernel has no overlayfs\n'
    [ -d /sys/fs/cgroup ] && [ -w /sys/fs/cgroup ] || printf 'cgroup: /sys/fs/cgroup cannot be written\n'
    [ "$(id -u)" = 0 ] || return 0
    local filesystem
    mkdir -p "$base" 2>/dev/null || { printf 'state: %s cannot be made\n' "$base"; return 0; }
    filesystem=$(findmnt -n -o FSTYPE -T "$base")
    [ "$filesystem" != overlay ] || printf 'state: %s is on overlayfs, which cannot carry another; set STK_LOCAL_DIR to a real file system\n' "$base"
    doctor_namespaces
    local memory disk wanted_memory=3000 wanted_disk=5000 smaller=
    [ "$stage" != cloud ] || { wanted_memory=6000; wanted_disk=10000; smaller=' (half of that for STAGE=identity)'; }
    memory=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    [ "$memory" -ge "$wanted_memory" ] || printf 'memory: %s MiB are free, %s are needed for the stage %s%s\n' "$memory" "$wanted_memory" "$stage" "$smaller"
    disk=$(df -Pm "$base" | awk 'NR == 2 { print $4 }')
    [ "$disk" -ge "$wanted_disk" ] || printf 'disk: %s MiB are free below %s, %s are needed for the stage %s%s\n' "$disk" "$base" "$wanted_disk" "$stage" "$smaller"
}

doctor_namespaces() {
    unshare --net --pid --mount --uts --ipc --fork --mount-proc true 2>/dev/null ||
        printf 'namespaces: network, pid and mount namespaces cannot be made here\n'
    local probe
    probe=$(mktemp -d "$base/.doctor.XXXXXX")
    mkdir "$probe/low" "$probe/up" "$probe/work" "$probe/root"
    if mount -t overlay stk-doctor -o "lowerdir=$probe/low,upperdir=$probe/up,workdir=$probe/work" "$probe/root" 2>/dev/null; then
        umount "$probe/root"
    else
        printf 'overlay: an overlay cannot be mounted below %s\n' "$base"
    fi
    rm -rf --one-file-system "$probe"
}

doctor() {
    local missing
    missing=$(doctor_missing)
    if [ -n "$missing" ]; then
        printf '%s\n' "$missing"
        say "this machine cannot run the local environment as it is; next: make deps, then stk-local doctor"
        exit 77
    fi
    printf 'ready: this machine can run the local environment (state below %s)\n' "$base"
}

doctor_quietly() {
    local missing
    missing=$(doctor_missing)
    [ -z "$missing" ] || die 77 "this machine cannot run the local environment: $(printf '%s' "$missing" | tr '\n' ';')"
}
