# shellcheck shell=bash
# Settings, messages and the node list of the local environment.

prefix=${STK_LOCAL_PREFIX:-stk}
base=${STK_LOCAL_DIR:-/var/lib/stacktira-local}
state=$base/$prefix
cache=$base/cache
lan=$prefix-lan
# shellcheck disable=SC2034 # used by other parts
domain=stacktira.test

say() { printf 'stk-local: %s\n' "$*" >&2; }

die() {
    local code=$1
    shift
    say "error: $*"
    exit "$code"
}

usage_error() {
    say "error: $*"
    say "hint: stk-local --help"
    exit 2
}

case $prefix in
    '' | *[!a-z0-9]* | [0-9]*) usage_error "STK_LOCAL_PREFIX must be letters and digits, beginning with a letter: '$prefix'" ;;
esac
# Interface and namespace names are at most 15 characters, and the longest suffix is "-control1".
[ ${#prefix} -le 6 ] || usage_error "STK_LOCAL_PREFIX is longer than 6 characters: '$prefix'"
case $base in
    /*) ;;
    *) usage_error "STK_LOCAL_DIR must be an absolute path: '$base'" ;;
esac

# How much is deployed. A cluster keeps the stage it was made for.
stage=${STK_LOCAL_STAGE:-$(cat "$state/stage" 2>/dev/null || echo cloud)}
case $stage in
    cluster | identity | cloud) ;;
    *) usage_error "STK_LOCAL_STAGE must be cluster, identity or cloud: '$stage'" ;;
esac

clock_start=$EPOCHREALTIME

# Prints a step with the seconds since the command began.
lap() {
    awk -v start="$clock_start" -v now="$EPOCHREALTIME" -v text="$*" 'BEGIN { printf "%7.1fs  %s\n", now - start, text }'
}

nodes_file=${STK_LOCAL_NODES:-$repo/provision/nodes.list}
[ -r "$nodes_file" ] || usage_error "STK_LOCAL_NODES cannot be read: '$nodes_file'"

# Fields of the node list: name role inside outside memory.
node_list() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$nodes_file"; }
node_names() { node_list | awk '{ print $1 }'; }
node_field() { node_list | awk -v name="$1" -v field="$2" '$1 == name { print $field }'; }
role_of() { node_field "$1" 2; }
address_of() { node_field "$1" 3; }
outside_of() { node_field "$1" 4; }
memory_of() { node_field "$1" 5; }
nodes_of_role() { node_list | awk -v role="$1" '$2 == role { print $1 }'; }

each_known() {
    local node
    for node; do
        [ -n "$(role_of "$node")" ] || usage_error "no node is called '$node' (there are: $(node_names | tr '\n' ' '))"
    done
}

need_running() {
    each_known "$1"
    machine_pid "$1" >/dev/null || die 1 "$1 is not running; next: stk-local up $1"
}

need_root() { [ "$(id -u)" = 0 ] || die 77 "root is needed: namespaces, mounts and cgroups are made"; }

# Runs a function under the lock of a shared cache entry.
with_lock() {
    local lock=$1
    shift
    mkdir -p "$(dirname "$lock")"
    (
        flock 9
        "$@"
    ) 9>"$lock"
}

# A short name for content: used as the key of cache entries.
digest_of() { sha256sum | cut -c1-16; }
