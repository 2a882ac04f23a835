#!/bin/sh
# Makes a node of a fresh machine. Safe to run again: what is done is found done, and what was asked for the last
# time is asked for again. A step that fails names itself and leaves the node as it was.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
[ -z "${STACKTIRA_PROVISION:-}" ] || here=$STACKTIRA_PROVISION
script=bootstrap
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=lib/metadata.sh
. "$here/lib/metadata.sh"
# shellcheck source=lib/proxy.sh
. "$here/lib/proxy.sh"
# shellcheck source=lib/sources.sh
. "$here/lib/sources.sh"
# shellcheck source=lib/node.sh
. "$here/lib/node.sh"

usage() {
    cat <<'END'
Usage: bootstrap.sh [OPTION...]

  --role ROLE          what this node is; else the metadata's `role`, else the letters of the host's name
  --provisioner NAME   script of provision/ that takes over at the end; else the metadata's, else puppet.
                       A script with the role's name (build.sh) goes before it.
  --mirror URL         where packages and git come from; else the metadata's `mirror_address`
  --proxy URL          way out for package managers, git and services; else the metadata's `proxy`
  --no-proxy LIST      what is reached without it, besides this cluster; else the metadata's `no_proxy`
  --relock             look at the addresses again, which were locked at the first boot
  --dry-run            say what would be done, and change nothing
  --print              print this script with all that it sources, as one file; that runs alone too
  --help               this

Options are kept in /etc/stacktira/bootstrap.conf for the next time; an empty value takes one away.

Steps: detect, metadata, role, proxy, mirror (on the role build), sources, tools, facts, hosts, consul, provisioner.
Each says one line here, and all that its commands say goes to /var/log/stacktira/bootstrap.log.

Environment:
  STACKTIRA_ROOT           prefix of every path that is read or written
  STACKTIRA_PROVISION      directory of the scripts, for one that was printed (default: its own)
  STACKTIRA_METADATA_URL   the metadata document (default: the OpenStack metadata service)
  STACKTIRA_METADATA_WAIT  seconds to wait for it where nothing else can answer (default: 30)
  STACKTIRA_WAIT           seconds to wait for the mirror (default: 300)

Exit status: 0 the node is bootstrapped   1 a step failed   2 usage   65 metadata that cannot be used
             69 no metadata, mirror or address   75 another bootstrap is running   77 this system cannot be a node

Examples:
  bootstrap.sh --dry-run
  bootstrap.sh --role hyper --mirror http://192.168.242.5:8080
  bootstrap.sh --print | ssh root@node sh -s -- --role infra
END
}

print_whole() {
    awk -v here="$here" '
        function show(file,   line, word) {
            while ((getline line < file) > 0) {
                if (line ~ /^# shellcheck (source=lib|shell)/) continue
                if (line ~ /^\. "\$here\/lib/) { split(line, word, "\""); sub(/^\$here/, here, word[2]); show(word[2]) }
                else if (line ~ /^here=\$\(/) print "here=/opt/stacktira/provision"
                else print line
            }
        }
        BEGIN { show(here "/bootstrap.sh") }'
}

options=
relock=no
# option KEY FLAG [VALUE...]
option() {
    [ $# -ge 3 ] || die 2 "$2 needs a value"
    case $3 in *"$newline"*) die 2 "$2 has more than one line" ;; esac
    options="$options$1=$3$newline"
}
newline='
'
while [ $# -gt 0 ]; do
    case $1 in
        --role | --provisioner | --proxy) option "${1#--}" "$@"; shift ;;
        --no-proxy) option no_proxy "$@"; shift ;;
        --mirror) option mirror_address "$@"; shift ;;
        --relock) relock=yes ;;
        --dry-run) dry_run=yes ;;
        --print) print_whole; exit 0 ;;
        --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown argument: $1" ;;
    esac
    shift
done

step() {
    current=$1
    step_began=$(wc -c <"$log_file")
    [ "$dry_run" != no ] || printf '%s\n' "$1" >"$state_dir/bootstrap.step"
}
told() { log "$current: $*"; }

# run SCRIPT ARG...: another script of this directory; what it says goes to the log, its error to people too.
run() {
    script_file=$here/$1
    shift
    [ "$dry_run" = no ] || { told "would run $script_file $*"; return 0; }
    [ -x "$script_file" ] || die 1 "$script_file is not there; next: install the package of the tools"
    run_code=0
    "$script_file" "$@" 9>&- || run_code=$?
    [ $run_code -ne 0 ] || return 0
    [ "$terminal" = 2 ] || tail -c "+$((step_began + 1))" "$log_file" | grep 'error: ' | tail -n 1 >&"$terminal" || true
    exit $run_code
}

ended() {
    code=$?
    trap - EXIT HUP INT TERM
    if [ $code -ne 0 ] && [ -n "${current:-}" ]; then
        # A command that failed without a word of ours: its own words.
        if [ "$terminal" != 2 ] && ! tail -c "+$((step_began + 1))" "$log_file" | grep -q 'error: '; then
            tail -c "+$((step_began + 1))" "$log_file" | tail -n 3 >&"$terminal"
        fi
        log "stopped at step $current with code $code; log: $log_file; next: repair what the lines above name, then run $0 again, which goes on from here"
    fi
    ! mountpoint -q "$run_dir/private/drive" 2>/dev/null || umount "$run_dir/private/drive"
    [ "$dry_run" = no ] || rm -rf "$run_dir"
    exit $code
}

options_file=$config_dir/bootstrap.conf
if [ "$dry_run" = no ]; then
    mkdir -p "$state_dir" "$run_dir" "$root/var/log/stacktira"
    exec 9>"$run_dir/bootstrap.lock"
    flock -n 9 || die 75 "another bootstrap is running on this node"
    log_file=$root/var/log/stacktira/bootstrap.log
    [ -e "$log_file" ] || (umask 027 && : >"$log_file")
else
    cached=$run_dir/meta_data.json
    run_dir=$(mktemp -d)
    log_file=$run_dir/log
    : >"$log_file"
    [ ! -s "$cached" ] || cp "$cached" "$run_dir/"
    [ ! -s "$options_file" ] || cp "$options_file" "$run_dir/"
    options_file=$run_dir/bootstrap.conf
fi
trap ended EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# Who traces this wants to see it.
case $- in *x*) ;; *) exec 3>&2 2>>"$log_file"; terminal=3 ;; esac

step detect
detect
step metadata
keep_options
fetch_metadata
step role
choose_role
step proxy
set_proxy
if [ "$role" = build ]; then
    step mirror
    run build.sh mirror
    told "served at $(meta mirror_address '')"
fi
step sources
use_sources
step tools
install_tools
step facts
lock_facts
step hosts
name_hosts
step consul
if [ -n "$(meta consul_join '')" ]; then
    run consul.sh
    told "$([ "$role" = infra ] && echo server || echo client), joins $(meta consul_join)"
else
    # A mirror that serves several clusters belongs to none of them.
    [ "$role" = build ] || die 69 "the metadata has no consul_join: the addresses of Consul's servers"
    told "none: this node serves packages and git, and is in no cluster (no consul_join)"
fi
step provisioner
provisioner=$(meta provisioner puppet)
[ ! -x "$here/$role.sh" ] || provisioner=$role
matches "$provisioner" '[a-z][a-z0-9_-]*' || die 2 "'$provisioner' is no name of a provisioner"
[ "$dry_run" != no ] && [ ! -d "$here" ] || grep -q '^# Provisioner: ' "$here/$provisioner.sh" 2>/dev/null ||
    die 2 "there is no provisioner '$provisioner' in $here (there are: $(grep -l '^# Provisioner: ' "$here"/*.sh | sed 's|.*/\(.*\)[.]sh|\1|' | tr '\n' ' '))"
run "$provisioner.sh"
told "$provisioner"
[ "$dry_run" = no ] || exit 0
step 'all done'
: >"$state_dir/bootstrapped"
log "this node is bootstrapped as '$role'"
