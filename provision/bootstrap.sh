#!/bin/sh
# Makes a node of a fresh machine: metadata, role, package source, tools, facts, Consul, provisioner.
# Safe to run again: what is done is found done. A step that fails names itself and leaves the node as it was.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=bootstrap
# shellcheck source=lib.sh
. "$here/lib.sh"

usage() {
    cat <<'EOF'
Usage: bootstrap.sh [--role ROLE] [--provisioner NAME] [--help]

  --role ROLE          what this node is; else the metadata's `role`, else the letters of the host's name
  --provisioner NAME   script of provision/ that takes over at the end; else the metadata's, else puppet.
                       A script with the role's name (build.sh) goes before it.

Environment:
  STACKTIRA_ROOT           prefix of every path that is read or written
  STACKTIRA_WAIT           seconds to wait for the mirror (default: 300)
  STACKTIRA_METADATA_URL   the metadata document (default: the OpenStack metadata service)

Exit status: 0 the node is bootstrapped   1 a step failed   2 usage   69 no metadata, mirror or address
EOF
}

role=
provisioner=
while [ $# -gt 0 ]; do
    case $1 in
        --role) [ $# -ge 2 ] || die 2 "--role needs a value"; role=$2; shift 2 ;;
        --provisioner) [ $# -ge 2 ] || die 2 "--provisioner needs a value"; provisioner=$2; shift 2 ;;
        --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown argument: $1" ;;
    esac
done

step() {
    mkdir -p "$state_dir" "$run_dir"
    printf '%s\n' "$1" >"$state_dir/bootstrap.step"
    log "step: $1"
}

# The first source that has a document wins; it is cached, and `node-metadata` reads the same cache.
fetch_metadata() {
    cached=$run_dir/meta_data.json
    [ ! -s "$cached" ] || return 0
    mount_config_drive
    # cloud-init keeps what the cloud said inside a document of its own.
    instance=$root/run/cloud-init/instance-data.json
    if [ -s "$instance" ] && json_part "$instance" ds meta_data >"$run_dir/meta_data.instance" 2>/dev/null; then
        take_metadata "$run_dir/meta_data.instance"
        rm -f "$run_dir/meta_data.instance"
        return 0
    fi
    rm -f "$run_dir/meta_data.instance"
    drive=$root/mnt/config/openstack/latest/meta_data.json
    if [ -s "$drive" ]; then
        take_metadata "$drive"
        return 0
    fi
    url=${STACKTIRA_METADATA_URL:-http://169.254.169.254/openstack/latest/meta_data.json}
    downloaded=$run_dir/meta_data.download
    # Refused or unroutable at once: there is no such service here. Anything else may come up yet.
    if curl --noproxy '*' -sf --connect-timeout 2 --max-time 5 --retry 3 --retry-max-time 20 -o "$downloaded" "$url"; then
        take_metadata "$downloaded"
        rm -f "$downloaded"
        return 0
    fi
    rm -f "$downloaded"
    [ ! -s "$root/etc/stacktira/metadata.json" ] || { take_metadata "$root/etc/stacktira/metadata.json"; return 0; }
    die 69 "no metadata: no cloud-init data, config drive, answer from $url or /etc/stacktira/metadata.json"
}

take_metadata() {
    json_get "$1" meta >/dev/null 2>&1 || json_get "$1" hostname >/dev/null 2>&1 || json_get "$1" name >/dev/null 2>&1 ||
        die 65 "the metadata in $1 is not JSON, or has neither meta nor hostname"
    atomic_write 0640 "$run_dir/meta_data.json" <"$1" || true
}

mount_config_drive() {
    [ -z "$root" ] && [ ! -e /mnt/config/openstack ] || return 0
    for label in config-2 CONFIG-2; do
        if [ -e "/dev/disk/by-label/$label" ]; then
            mkdir -p /mnt/config
            mount -o ro "/dev/disk/by-label/$label" /mnt/config
            return 0
        fi
    done
}

choose_role() {
    [ -n "$role" ] || role=$(meta role '')
    [ -n "$role" ] || role=$(uname -n | sed 's/^\([A-Za-z]*\).*/\1/' | tr '[:upper:]' '[:lower:]')
    printf '%s' "$role" | grep -Eqx '[a-z][a-z0-9_]*' || die 2 "'$role' is no role: small letters, digits and _, beginning with a letter"
    [ -e "$here/puppet/data/role/$role.yaml" ] || die 2 "there is no role '$role' (there are: $(find "$here/puppet/data/role" -name '*.yaml' -exec basename {} .yaml \; | sort | tr '\n' ' '))"
}

# The node's one package source: the snapshot that the mirror's channel names, signed by the site's key.
# The others are put aside only after this one has answered.
use_mirror() {
    mirror=$(meta mirror_address '')
    [ -n "$mirror" ] || { log "no mirror_address: the package sources stay as they are"; return 0; }
    key=$(meta mirror_key '')
    if [ -n "$key" ]; then
        printf '%s\n' "$key" | atomic_write 0644 "$config_dir/site.asc" || true
    elif [ ! -s "$config_dir/site.asc" ]; then
        die 69 "the mirror's key is not known: neither mirror_key in the metadata nor $config_dir/site.asc"
    fi
    sources=$root/etc/apt/sources.list.d/stacktira.sources
    [ ! -s "$sources" ] || { apt update; return 0; }
    channel=$(meta mirror_channel stable)
    retry "${STACKTIRA_WAIT:-300}" fetch_channel || die 69 "the mirror does not answer: $mirror/channel/$channel.json"
    snapshot=$(json_get "$run_dir/channel.json" snapshot)
    printf '%s' "$snapshot" | grep -Eqx '[0-9a-f]{64}' || die 69 "the channel '$channel' of $mirror names no snapshot"
    probe=$run_dir/probe.sources
    printf 'Types: deb\nURIs: %s/snap/%s/deb/debian\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$mirror" "$snapshot" "$(. "$root/etc/os-release" && printf '%s' "$VERSION_CODENAME")" "$config_dir/site.asc" >"$probe"
    apt -o "Dir::Etc::SourceList=$probe" -o Dir::Etc::SourceParts=/dev/null -o APT::Update::Error-Mode=any update ||
        die 69 "the mirror's packages cannot be used: $mirror/snap/$snapshot; its words stand above"
    mkdir -p "$root/etc/apt/disabled-by-stacktira" "$root/etc/apt/sources.list.d"
    for other in "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*.list "$root"/etc/apt/sources.list.d/*.sources; do
        [ ! -e "$other" ] || mv -f "$other" "$root/etc/apt/disabled-by-stacktira/"
    done
    atomic_write 0644 "$sources" <"$probe" || true
    rm -f "$probe"
    atomic_write 0644 "$root/etc/apt/apt.conf.d/90stacktira" <<'EOF' || true
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
EOF
    apt update
}

fetch_channel() {
    curl --noproxy '*' -sf --connect-timeout 3 --max-time 10 -o "$run_dir/channel.json" "$mirror/channel/$channel.json"
}

install_tools() {
    if [ -n "$mirror" ]; then
        apt install stacktira
    elif [ ! -x "$bin/ts" ]; then
        die 1 "the tools are not installed and there is no mirror to take them from"
    fi
}

# Facts that Puppet and Hiera use. Addresses are locked at the first boot: a bridge that appears later
# must not change who this node is.
write_facts() {
    facts=$root/etc/facter/facts.d/stacktira.json
    internal=$(meta internal_interface '')
    external=$(meta external_interface '')
    [ -n "$internal" ] || internal=$(ip -4 -o route show default 2>/dev/null | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')
    [ -n "$internal" ] || die 69 "no internal_interface in the metadata, and no default route to guess it by"
    [ ! -s "$facts" ] || [ "$(json_get "$facts" role)" != "$role" ] || return 0
    atomic_write 0644 "$facts" <<EOF || true
{
  "role": "$role",
  "stacktira": {
    "internal_interface": "$internal",
    "internal_address": "$(address_of "$internal")",
    "external_interface": "${external:-$internal}",
    "external_address": "$(address_of "${external:-$internal}")",
    "vip": "$(meta vip '')",
    "mirror": "$(meta mirror_address '')",
    "provider": "$(meta provider unknown)"
  }
}
EOF
    # What Hiera needs before Puppet has written the facts of a whole run.
    node=$(uname -n | sed 's/\..*//')
    atomic_write 0644 "$state_dir/facts.json" <<EOF || true
{"role": "$role", "networking": {"hostname": "$node"}}
EOF
}

step metadata
fetch_metadata
step role
choose_role
if [ "$role" = build ]; then
    step mirror
    "$here/build.sh" mirror
fi
step sources
use_mirror
step tools
install_tools
step facts
write_facts
if [ -n "$(meta consul_join '')" ]; then
    step consul
    "$here/consul.sh"
else
    # A mirror that serves several clusters belongs to none of them.
    [ "$role" = build ] || die 69 "the metadata has no consul_join: the addresses of Consul's servers"
    log "no consul_join: this node serves packages and git, and is in no cluster"
fi
[ -n "$provisioner" ] || provisioner=$(meta provisioner puppet)
[ ! -x "$here/$role.sh" ] || provisioner=$role
printf '%s' "$provisioner" | grep -Eqx '[a-z][a-z0-9_-]*' || die 2 "'$provisioner' is no name of a provisioner"
[ -x "$here/$provisioner.sh" ] || die 2 "there is no provisioner '$provisioner' in $here"
step "provisioner $provisioner"
"$here/$provisioner.sh"
step 'all done'
: >"$state_dir/bootstrapped"
log "this node is bootstrapped as '$role'"
