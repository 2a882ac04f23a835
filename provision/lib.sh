# shellcheck shell=sh
# Functions that the scripts of this directory share. Sourced, never run.
# Every path of the system is below STACKTIRA_ROOT, so that all of it can be tested in a scratch root.

root=${STACKTIRA_ROOT:-}
state_dir=$root/var/lib/stacktira
run_dir=$root/run/stacktira
# shellcheck disable=SC2034 # used by the scripts
config_dir=$root/etc/stacktira
# shellcheck disable=SC2034 # used by the scripts
bin=/opt/stacktira/bin
PATH=$bin:$PATH
export PATH

log() { printf '%s: %s\n' "${script:-provision}" "$*" >&2; }

# die CODE MESSAGE...
die() {
    die_code=$1
    shift
    log "error: $*"
    exit "$die_code"
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
    mkdir -p "$(dirname "$2")"
    write_temporary=$(mktemp "$(dirname "$2")/.$(basename "$2").XXXXXX")
    cat >"$write_temporary"
    chmod "$1" "$write_temporary"
    if [ -f "$2" ] && cmp -s "$write_temporary" "$2" && [ "$(stat -c %a "$2")" = "${1#0}" ]; then
        rm -f "$write_temporary"
        return 1
    fi
    sync "$write_temporary"
    mv -f "$write_temporary" "$2"
    sync "$(dirname "$2")"
}

# json_get FILE KEY: a string or number of `meta`, else of the top level. Fails when it is absent.
# The tools do this once they are installed; before, what every image has: python3 or Puppet's ruby.
json_get() {
    if command -v python3 >/dev/null 2>&1; then
        python3 -c 'import json, sys
document = json.load(open(sys.argv[1]))
meta = document.get("meta") or {}
value = meta.get(sys.argv[2], document.get(sys.argv[2]))
if value is None: sys.exit(1)
sys.stdout.write(value if isinstance(value, str) else json.dumps(value))' "$1" "$2"
    elif command -v ruby >/dev/null 2>&1; then
        ruby -rjson -e 'document = JSON.parse(File.read(ARGV[0]))
value = (document["meta"] || {}).fetch(ARGV[1]) { document[ARGV[1]] }
exit 1 if value.nil?
print(value.is_a?(String) ? value : JSON.generate(value))' "$1" "$2"
    else
        die 69 "neither python3 nor ruby is here to read $1; next: put one of them into the image"
    fi
}

# json_part FILE KEY KEY: what two mappings deep is in a document, as JSON. Fails when it is no mapping.
json_part() {
    if command -v python3 >/dev/null 2>&1; then
        python3 -c 'import json, sys
part = json.load(open(sys.argv[1])).get(sys.argv[2], {}).get(sys.argv[3])
if not isinstance(part, dict): sys.exit(1)
json.dump(part, sys.stdout)' "$1" "$2" "$3"
    else
        ruby -rjson -e 'part = JSON.parse(File.read(ARGV[0])).dig(ARGV[1], ARGV[2])
exit 1 unless part.is_a?(Hash)
print(JSON.generate(part))' "$1" "$2" "$3"
    fi
}

# meta KEY [DEFAULT]: metadata of this node: by `node-metadata`, or before that is installed from the
# document that the bootstrap cached.
meta() {
    if [ -x "$bin/node-metadata" ]; then
        "$bin/node-metadata" -q get "$1" 2>/dev/null && return 0
    else
        json_get "$run_dir/meta_data.json" "$1" 2>/dev/null && return 0
    fi
    [ $# -ge 2 ] || die 69 "the metadata has no '$1'; next: give it to the machine as metadata"
    printf '%s' "$2"
}

# address_of INTERFACE: its first IPv4 address; a loopback address is refused.
address_of() {
    found=$(ip -4 -o addr show dev "$1" scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }')
    case $found in
        '' | 127.*) die 69 "interface '$1' has no usable address" ;;
    esac
    printf '%s' "$found"
}

# Whether Consul answers, with a leader; that nothing is there yet is an answer.
consul_answers() {
    answer_code=0
    "$bin/consul-kv" list stacktira/ >/dev/null 2>&1 || answer_code=$?
    [ $answer_code -le 1 ] || return $answer_code
}

systemd_running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

apt() {
    # An interrupted dpkg refuses everything until it is repaired; on a healthy system this does nothing.
    [ -n "$root" ] || dpkg --configure -a >&2
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 "$@" >&2
}
