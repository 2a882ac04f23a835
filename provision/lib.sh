# shellcheck shell=sh
# Functions that the scripts of this directory share. Sourced, never run.
# Every path of the system is below STACKTIRA_ROOT, so that all of it can be tested in a scratch root.
# No secret is ever in a variable or an argument here: `sh -x` shows names of files.

root=${STACKTIRA_ROOT:-}
# shellcheck disable=SC2034 # used by the scripts
state_dir=$root/var/lib/stacktira
run_dir=$root/run/stacktira
config_dir=$root/etc/stacktira
bin=/opt/stacktira/bin
dry_run=${STACKTIRA_DRY_RUN:-no}
# OpenVox has its programs in a directory of its own.
PATH=$bin:$PATH:/opt/puppetlabs/bin
export PATH
# Where the tools and Consul's own commands find this node's token, once consul.sh has written it.
if [ -z "${CONSUL_HTTP_TOKEN_FILE:-}" ] && [ -r "$config_dir/consul.token" ]; then
    export CONSUL_HTTP_TOKEN_FILE="$config_dir/consul.token"
fi

# bootstrap.sh sends stderr to its log; `terminal` is then where people look.
terminal=2
log() {
    printf '%s: %s\n' "${script:-provision}" "$*" >&2
    [ "$terminal" = 2 ] || printf '%s: %s\n' "${script:-provision}" "$*" >&"$terminal"
}

# die CODE MESSAGE...
die() {
    die_code=$1
    shift
    log "error: $*"
    exit "$die_code"
}

# change COMMAND...: what changes this machine; only said in a dry run.
change() {
    [ "$dry_run" = no ] || { log "would run: $*"; return 0; }
    "$@"
}

# retry SECONDS COMMAND...: until it succeeds, with growing pauses; the last failure is the answer.
retry() {
    retry_end=$(($(date +%s) + $1))
    shift
    retry_pause=1
    until "$@"; do
        retry_code=$?
        [ "$(date +%s)" -lt "$retry_end" ] || return $retry_code
        sleep $retry_pause
        [ $retry_pause -ge 5 ] || retry_pause=$((retry_pause + 1))
    done
}

# atomic_write MODE FILE: stdin becomes the file, whole or not at all. Succeeds with 0 when the file
# changed and with 1 when it already was so.
atomic_write() {
    if [ "$dry_run" != no ]; then
        case $2 in
            "$run_dir"/*) ;;
            *)
                if cmp -s - "$2" 2>/dev/null; then return 1; fi
                log "would write $2"
                return 0
                ;;
        esac
    fi
    mkdir -p "$(dirname "$2")"
    write_temporary=$(mktemp "$(dirname "$2")/.$(basename "$2").XXXXXX")
    cat >"$write_temporary"
    chmod "$1" "$write_temporary"
    if [ -f "$2" ] && [ ! -L "$2" ] && cmp -s "$write_temporary" "$2" && [ "$(stat -c %a "$2")" = "${1#0}" ]; then
        rm -f "$write_temporary"
        return 1
    fi
    sync "$write_temporary"
    mv -f "$write_temporary" "$2"
    sync "$(dirname "$2")"
}

# managed_block FILE: stdin becomes the part of FILE between our two marks; the rest stays as it is.
managed_block() {
    block_file=$1
    {
        [ ! -f "$block_file" ] || sed '/^# BEGIN stacktira$/,/^# END stacktira$/d' "$block_file"
        printf '# BEGIN stacktira\n'
        cat
        printf '# END stacktira\n'
    } | atomic_write 0644 "$block_file"
}

# matches VALUE PATTERN: the whole value, which is one line.
matches() { [ "$(printf '%s' "$1" | wc -l)" = 0 ] && printf '%s' "$1" | grep -Eqx -- "$2"; }
# fits NAME VALUE PATTERN: words that go into files of this machine are what they say.
fits() { matches "$2" "$3" || die 65 "$1 is not usable: '$2'"; }

# fact KEY: of what was locked at the first boot.
fact() { json_get "$root/etc/facter/facts.d/stacktira.json" "$1"; }

# address_of INTERFACE: its first IPv4 address; a loopback address is refused.
address_of() {
    found=$(ip -4 -o addr show dev "$1" scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }')
    case $found in
        '' | 127.*) die 69 "interface '$1' has no usable address" ;;
    esac
    printf '%s' "$found"
}

interface_with() { ip -4 -o addr show 2>/dev/null | awk -v address="$1" '{ split($4, part, "/"); if (part[1] == address) { print $2; exit } }'; }

short_name() { uname -n | sed 's/\..*//'; }

# Whether Consul answers, with a leader; that nothing is there yet is an answer.
consul_answers() {
    answer_code=0
    consul-kv list stacktira/ >/dev/null 2>&1 || answer_code=$?
    [ $answer_code -le 1 ] || return $answer_code
}

systemd_running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

apt() {
    # An interrupted dpkg refuses everything until it is repaired; on a healthy system this does nothing.
    [ -n "$root" ] || dpkg --configure -a >&2
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 "$@" >&2
}
dnf() { command dnf -q -y --setopt=install_weak_deps=False "$@" >&2; }

# install_packages NAME...: by this system's package manager.
install_packages() { if [ "$(family)" = el ]; then dnf install "$@"; else apt install "$@"; fi; }

# The system: `release ID`, `release VERSION_ID`; which package manager it has; and its architecture as that says it.
# shellcheck source=/dev/null
release() { (. "$root/etc/os-release" && eval "printf '%s' \"\${$1:-}\""); }
family() { case $(release ID) in debian) echo debian ;; rhel | almalinux | rocky | centos | ol) echo el ;; *) echo unknown ;; esac; }
major() { release VERSION_ID | sed 's/\..*//'; }

# shellcheck source=lib/json.sh disable=SC2154 # `here` is set by who sources this
. "$here/lib/json.sh"
