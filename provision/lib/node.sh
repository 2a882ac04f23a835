# shellcheck shell=sh
# Steps of bootstrap.sh: role, tools, facts, hosts. Who this node is.

choose_role() {
    role_from=metadata
    [ -z "$(setting role)" ] || role_from='--role'
    role=$(meta role '')
    if [ -z "$role" ]; then
        role=$(short_name | sed 's/^\([A-Za-z]*\).*/\1/' | tr '[:upper:]' '[:lower:]')
        role_from='the letters of its name'
    fi
    matches "$role" '[a-z][a-z0-9_]*' || die 2 "'$role' is no role: small letters, digits and _, beginning with a letter"
    # A script that was printed and runs alone has them once the tools are installed.
    [ ! -d "$here/puppet/data/role" ] || known_role
    told "$role ($role_from)"
}

known_role() {
    [ -e "$here/puppet/data/role/$role.yaml" ] ||
        die 2 "there is no role '$role' (there are: $(find "$here/puppet/data/role" -maxdepth 1 -name '*.yaml' -exec basename {} .yaml \; | sort | tr '\n' ' '))"
}

# From the mirror; else the package that the metadata names, with its digest; else they are here already.
install_tools() {
    url=$(meta tools_url '')
    if [ -n "$mirror" ]; then
        change install_packages stacktira || die 1 "the package of the tools cannot be installed from $mirror"
    elif [ ! -x "$bin/ts" ] && [ -n "$url" ]; then
        package=$root/var/cache/stacktira/${url##*/}
        fits tools_url "$url" 'https?://[^ "]+/stacktira[-_][0-9A-Za-z.+~_-]+[.](deb|rpm)'
        change fetch "$url" "$(meta tools_sha256)" "$package"
        change install_packages "$package" || die 1 "the package of the tools cannot be installed: $package"
    elif [ ! -x "$bin/ts" ] && [ -z "$root" ]; then
        die 1 "the tools are not installed, and there is neither a mirror nor a tools_url to take them from"
    fi
    [ "$dry_run" != no ] || [ ! -d "$here/puppet/data/role" ] || known_role
    told "$(tools_version)"
}

tools_version() {
    if [ "$(family)" = el ]; then rpm -q --queryformat 'stacktira %{VERSION}-%{RELEASE}' stacktira 2>/dev/null || echo "in $bin"
    else dpkg-query -W -f 'stacktira ${Version}' stacktira 2>/dev/null || echo "in $bin"; fi
}

# fetch URL SHA256 FILE: the file is there only when it is the right one.
fetch() {
    fits "the SHA-256 of $1" "$2" '[0-9a-f]{64}'
    [ ! -f "$3" ] || ! printf '%s  %s\n' "$2" "$3" | sha256sum --check --status || return 0
    mkdir -p "$(dirname "$3")"
    curl -sS -f -L --proto '=http,https' --connect-timeout 10 --speed-limit 1000 --speed-time 60 --retry 3 -o "$3.new" "$1" || die 69 "cannot be fetched: $1"
    printf '%s  %s\n' "$2" "$3.new" | sha256sum --check --status || { rm -f "$3.new"; die 65 "has another SHA-256 than $2: $1"; }
    mv -f "$3.new" "$3"
}

# The inside interface: as the metadata says; else the one that has the address that the provider told us, which
# holds after a reboot too; else what was locked at the first boot; else where the default route leads.
inside_interface() {
    inside=$(meta internal_interface '')
    [ -n "$inside" ] || [ ! -s "$config_dir/address" ] || {
        told_address=$(cat "$config_dir/address")
        inside=$(interface_with "$told_address")
        [ -n "$inside" ] || die 69 "no interface has this node's address '$told_address' ($config_dir/address)"
    }
    [ -n "$inside" ] || inside=$(fact stacktira.internal_interface 2>/dev/null || true)
    [ -n "$inside" ] || inside=$(ip -4 -o route show default 2>/dev/null | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')
    [ -n "$inside" ] || die 69 "no internal_interface in the metadata, no $config_dir/address, and no default route to guess it by"
}

# Facts that Puppet and Hiera use. Addresses are locked at the first boot: a bridge that appears later
# must not change who this node is. --relock looks again.
lock_facts() {
    facts=$root/etc/facter/facts.d/stacktira.json
    if [ "$relock" = no ] && [ "$(fact role 2>/dev/null || true)" = "$role" ]; then
        told "$(fact stacktira.internal_interface) $(fact stacktira.internal_address), locked before"
        return 0
    fi
    inside_interface
    outside=$(meta external_interface '')
    for name in "$inside" "${outside:-$inside}"; do fits "the interface" "$name" '[0-9A-Za-z._@-]{1,15}'; done
    address=$(address_of "$inside")
    outside_address=$(address_of "${outside:-$inside}")
    vip=$(meta vip '')
    [ -z "$vip" ] || fits vip "$vip" '[0-9]{1,3}([.][0-9]{1,3}){3}'
    provider=$(meta provider unknown)
    fits provider "$provider" '[a-z][a-z0-9_-]*'
    stage=$(meta stage identity)
    fits stage "$stage" '[a-z][a-z0-9_-]*'
    openstack=$(meta openstack zed)
    fits openstack "$openstack" '[a-z0-9][a-z0-9.]*'
    control_nodes
    # What Hiera needs before Puppet has written the facts of a whole run; first, as the locked facts say that this is done.
    atomic_write 0644 "$state_dir/facts.json" <<END || true
{"role": "$role", "networking": {"hostname": "$(short_name)"}}
END
    atomic_write 0644 "$facts" <<END || true
{
  "role": "$role",
  "stacktira": {
    "internal_interface": "$inside",
    "internal_address": "$address",
    "external_interface": "${outside:-$inside}",
    "external_address": "$outside_address",
    "vip": "$vip",
    "mirror": "$mirror",
    "provider": "$provider",
    "stage": "$stage",
    "openstack": "$openstack",
    "controls": {$(printf '%s' "$controls" | sed 's/\([^=,]*\)=\([^,]*\)/"\1": "\2"/g; s/,/, /g')}
  }
}
END
    told "$inside $address, locked"
}

# Who is one cluster of databases and messages with whom, where there are several: NAME=ADDRESS,...
control_nodes() {
    controls=$(meta control_nodes '')
    [ -z "$controls" ] || fits control_nodes "$controls" '[a-z0-9-]+=[0-9]{1,3}([.][0-9]{1,3}){3}(,[a-z0-9-]+=[0-9]{1,3}([.][0-9]{1,3}){3})*'
}

# This node's name is its inside address, for itself too: daemons of a cluster that find themselves on a loopback
# address talk to nobody. Images and cloud-init write such lines; ours goes into a block of its own.
name_hosts() {
    hosts=$root/etc/hosts
    node=$(short_name)
    domain=$(meta domain '')
    [ -z "$domain" ] || fits domain "$domain" '[a-z0-9]([a-z0-9.-]*[a-z0-9])?'
    if [ "$dry_run" = no ]; then address=$(fact stacktira.internal_address); else address=${address:-$(fact stacktira.internal_address 2>/dev/null || echo 'its address')}; fi
    case $address in 127.* | ::1) die 65 "the inside address is a loopback address: $address" ;; esac
    if [ -f "$hosts" ]; then
        awk -v node="$node" '
            function ours(name) { return name == node || index(name, node ".") == 1 }
            $1 ~ /^127\./ || $1 == "::1" {
                line = $1; kept = 0; dropped = 0
                for (i = 2; i <= NF && $i !~ /^#/; i++) if (ours($i)) dropped++; else { line = line " " $i; kept++ }
                if (dropped) { if (kept) print line; next }
            }
            { print }' "$hosts" | atomic_write 0644 "$hosts" || true
    fi
    control_nodes
    {
        host_line "$address" "$node"
        # RabbitMQ's nodes find each other by name, and no cloud's name servers need to know them.
        case $controls in
            *,*) printf '%s\n' "$controls" | tr , '\n' | while IFS='=' read -r peer place; do [ "$peer" = "$node" ] || host_line "$place" "$peer"; done ;;
        esac
    } | managed_block "$hosts" || true
    [ ! -d "$root/etc/cloud/cloud.cfg.d" ] || printf 'manage_etc_hosts: false\n' | atomic_write 0644 "$root/etc/cloud/cloud.cfg.d/99-stacktira.cfg" || true
    told "${domain:+$node.$domain, }$node is $address"
}

host_line() { printf '%s %s%s\n' "$1" "${domain:+$2.$domain }" "$2"; }
