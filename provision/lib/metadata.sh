# shellcheck shell=sh
# Steps of bootstrap.sh: detect, metadata. What this machine is, and what its provider says of it.

detect() {
    [ -r "$root/etc/os-release" ] || die 77 "no /etc/os-release says what this system is"
    system="$(release ID) $(release VERSION_ID)"
    case "$(family) $(major)" in
        'debian 12' | 'debian 13') programs='apt-get dpkg' ;;
        'el 9' | 'el 10') programs='dnf rpm' ;;
        *) die 77 "this system is $system; the bootstrap knows Debian 12 and 13, and RHEL, AlmaLinux, Rocky, CentOS and Oracle 9 and 10" ;;
    esac
    for program in $programs curl ip awk flock; do
        command -v "$program" >/dev/null 2>&1 || die 77 "the program '$program' is not here; next: put it into the image"
    done
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || die 77 "root is needed: packages and units are installed"
    told "$system ($(family)), $(uname -m)"
}

# The first source that has a document wins; it is cached, and `node-metadata` reads the same cache.
fetch_metadata() {
    if [ -s "$run_dir/meta_data.json" ]; then
        told "as before, from $run_dir/meta_data.json"
        return 0
    fi
    # cloud-init keeps what the cloud said inside a document of its own.
    instance=$root/run/cloud-init/instance-data.json
    if [ -s "$instance" ] && json_get "$instance" ds.meta_data >"$run_dir/meta_data.instance" 2>/dev/null && has_words "$run_dir/meta_data.instance"; then
        take_metadata "$run_dir/meta_data.instance" "cloud-init"
        return 0
    fi
    drive=$root/mnt/config/openstack/latest/meta_data.json
    if [ -s "$drive" ]; then
        take_metadata "$drive" "the config drive"
        return 0
    fi
    if read_config_drive; then
        take_metadata "$kept_drive" "the config drive"
        return 0
    fi
    local_file=$config_dir/metadata.json
    url=${STACKTIRA_METADATA_URL:-http://169.254.169.254/openstack/latest/meta_data.json}
    # Where a file can answer, the service is asked once; else it may only be slow to come up.
    patience=${STACKTIRA_METADATA_WAIT:-30}
    [ ! -s "$local_file" ] || patience=0
    if retry "$patience" ask_service "$url"; then
        take_metadata "$run_dir/meta_data.download" "$url"
        return 0
    fi
    [ ! -s "$local_file" ] || { take_metadata "$local_file" "$local_file"; return 0; }
    die 69 "no metadata: no cloud-init data, config drive, answer from $url or /etc/stacktira/metadata.json"
}

# The link-local address is never behind a proxy, and nobody who answers there may send us elsewhere.
ask_service() { [ "$(curl --noproxy '*' -s --connect-timeout 2 --max-time 5 -o "$run_dir/meta_data.download" -w '%{http_code}' "$1")" = 200 ]; }

# Without a cloud, cloud-init knows only what it has made up itself.
has_words() {
    for word in meta name uuid; do
        ! json_get "$1" "$word" >/dev/null 2>&1 || return 0
    done
    return 1
}

take_metadata() {
    json_get "$1" meta >/dev/null 2>&1 || json_get "$1" hostname >/dev/null 2>&1 || json_get "$1" name >/dev/null 2>&1 ||
        die 65 "the metadata in $1 is not JSON, or has neither meta nor hostname"
    atomic_write 0640 "$run_dir/meta_data.json" <"$1" || true
    rm -f "$run_dir/meta_data.instance" "$run_dir/meta_data.download"
    told "from $2"
}

# A drive that nobody has mounted: where only root looks, because user data may hold secrets, and not longer than it
# takes. The document stays as this node's own, for the next boots.
read_config_drive() {
    for label in config-2 CONFIG-2; do
        [ -e "$root/dev/disk/by-label/$label" ] || continue
        (umask 077 && mkdir -p "$run_dir/private/drive")
        mount -o ro "$root/dev/disk/by-label/$label" "$run_dir/private/drive" >&2 || die 69 "the config drive cannot be mounted: /dev/disk/by-label/$label"
        drive_code=0
        keep_drive || drive_code=$?
        umount "$run_dir/private/drive" >&2
        rmdir "$run_dir/private/drive" "$run_dir/private"
        return $drive_code
    done
    return 1
}

keep_drive() {
    [ -s "$run_dir/private/drive/openstack/latest/meta_data.json" ] || return 1
    if [ "$dry_run" = no ]; then kept_drive=$config_dir/metadata.json; else kept_drive=$run_dir/metadata.json; fi
    atomic_write 0640 "$kept_drive" <"$run_dir/private/drive/openstack/latest/meta_data.json" || true
}

# What was asked for on the command line holds for later runs too: a resumed bootstrap is the same bootstrap.
# Lines `key=value`; an option with an empty value takes the line away.
keep_options() {
    kept=$options_file
    [ -n "$options" ] || return 0
    {
        printf '%s' "$options" | cut -d= -f1 | sed 's/.*/^&=/' >"$run_dir/options.keys"
        [ ! -f "$kept" ] || grep -v -f "$run_dir/options.keys" "$kept" || true
        printf '%s' "$options" | grep -v '=$' || true
    } | atomic_write 0644 "$kept" || true
}
