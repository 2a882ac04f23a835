# shellcheck shell=sh
# Step of bootstrap.sh: sources. The node's one package source is the snapshot that the mirror's channel names,
# signed by the site's key; a node without a mirror keeps its system's sources, if they are signed.
# A new source is probed by itself before any other is put aside.

use_sources() {
    mirror=$(meta mirror_address '')
    if [ -z "$mirror" ]; then
        refuse_unsigned
        if [ ! -e "$run_dir/sources.fresh" ]; then
            change update_lists || die 69 "this system's package sources do not answer, or are not signed; there is no mirror_address"
            : >"$run_dir/sources.fresh"
        fi
        told "this system's own, as they are (no mirror_address)"
        return 0
    fi
    fits mirror_address "$mirror" 'https?://[0-9A-Za-z._-]+(:[0-9]{1,5})?(/[0-9A-Za-z._/-]*)?'
    site_key
    if [ -s "$(source_file)" ]; then
        change update_lists || die 69 "the mirror's packages cannot be used: $mirror"
        told "$mirror, as before"
        return 0
    fi
    channel=$(meta mirror_channel stable)
    fits mirror_channel "$channel" '[a-z][a-z0-9_-]*'
    retry "${STACKTIRA_WAIT:-300}" fetch_channel || die 69 "the mirror does not answer: $mirror/channel/$channel.json"
    snapshot=$(json_get "$run_dir/channel.json" snapshot 2>/dev/null || true)
    matches "$snapshot" '[0-9a-f]{64}' || die 69 "the channel '$channel' of $mirror names no snapshot"
    probe=$run_dir/probe
    mkdir -p "$probe"
    "describe_$(family)" >"$probe/stacktira.$(suffix)"
    change "probe_$(family)" "$probe" || die 69 "the mirror's packages cannot be used: $mirror/snap/$snapshot; the other sources are as they were"
    put_others_aside
    [ "$(family)" = el ] || no_extras | atomic_write 0644 "$root/etc/apt/apt.conf.d/90stacktira" || true
    atomic_write 0644 "$(source_file)" <"$probe/stacktira.$(suffix)" || true
    rm -rf "$probe"
    change update_lists || die 69 "the mirror's packages cannot be used: $mirror/snap/$snapshot"
    told "snapshot $(printf '%s' "$snapshot" | cut -c1-12) of $mirror, channel $channel"
}

# The key comes with the machine: in the metadata, or as a file that a provider with a better channel has laid down.
site_key() {
    if [ -n "$(meta mirror_key '')" ]; then
        meta mirror_key | awk 1 | atomic_write 0644 "$config_dir/site.asc" || true
    elif [ ! -s "$config_dir/site.asc" ]; then
        die 69 "the mirror's key is not known: neither mirror_key in the metadata nor $config_dir/site.asc"
    fi
}

fetch_channel() {
    curl --noproxy '*' -sf --connect-timeout 3 --max-time 10 -o "$run_dir/channel.json" "$mirror/channel/$channel.json"
}

suffix() { if [ "$(family)" = el ]; then echo repo; else echo sources; fi; }
source_file() { if [ "$(family)" = el ]; then echo "$root/etc/yum.repos.d/stacktira.repo"; else echo "$root/etc/apt/sources.list.d/stacktira.sources"; fi; }
update_lists() { if [ "$(family)" = el ]; then dnf makecache; else apt update; fi; }

describe_debian() { deb_source "$mirror/snap/$snapshot/deb/debian" "$(release VERSION_CODENAME)" main "$config_dir/site.asc"; }
deb_source() { printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n' "$@"; }
# The signed index names the digest of every package, as apt's does; the packages' own signatures are their vendors'.
describe_el() { rpm_source stacktira "$mirror/snap/$snapshot/rpm/el$(major)" "$config_dir/site.asc" 0; }
rpm_source() { printf '[%s]\nname=%s\nbaseurl=%s\nenabled=1\nrepo_gpgcheck=1\ngpgcheck=%s\ngpgkey=file://%s\n' "$1" "$1" "$2" "$4" "$3"; }

probe_debian() {
    find "$1" -name '*.sources' | while read -r probed; do
        apt -o "Dir::Etc::SourceList=$probed" -o Dir::Etc::SourceParts=/dev/null -o APT::Update::Error-Mode=any update || exit 1
    done
}
probe_el() { dnf --setopt="reposdir=$1" makecache; }

put_others_aside() {
    if [ "$(family)" = el ]; then set -- "$root"/etc/yum.repos.d/*.repo
    else set -- "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*.list "$root"/etc/apt/sources.list.d/*.sources; fi
    aside=$(dirname "$(dirname "$(source_file)")")/disabled-by-stacktira
    for other; do
        [ -e "$other" ] || continue
        [ -d "$aside" ] || change mkdir -p "$aside"
        change mv -f "$other" "$aside/"
    done
}

no_extras() { printf 'APT::Install-Recommends "false";\nAPT::Update::Error-Mode "any";\nAcquire::Languages "none";\n'; }

refuse_unsigned() {
    if [ "$(family)" = el ]; then
        unsigned=$(grep -lE '^gpgcheck *= *(0|no|false)' "$root"/etc/yum.repos.d/*.repo /dev/null 2>/dev/null || true)
    else
        unsigned=$(grep -liE '^[^#]*(\[[^]]*(trusted|allow-insecure)=yes|^(trusted|allow-insecure): *yes)' "$root/etc/apt/sources.list" \
            "$root"/etc/apt/sources.list.d/*.list "$root"/etc/apt/sources.list.d/*.sources 2>/dev/null || true)
    fi
    [ -z "$unsigned" ] || die 65 "a package source is believed without a signature: $(printf '%s' "$unsigned" | tr '\n' ' ')"
}

# vendor_source NAME: a vendor's own repository (keys/vendors.list), beside the system's. Its key must have a
# fingerprint of our list; the file may be given by hand, lie here, or be fetched.
vendor_source() {
    # shellcheck disable=SC2046 # the words of a line
    set -- "$1" $(awk -v name="$1" -v family="$(family)" '$1 == name && $2 == family { print $3, $4, $5, $6 }' "$here/keys/vendors.list" |
        sed -e "s/%codename/$(release VERSION_CODENAME)/g" -e "s/%release/$(release ID)$(major)/g" -e "s/%major/$(major)/g")
    [ $# -eq 5 ] || die 65 "keys/vendors.list has no source '$1' for $(family)"
    vendor_key=$root/etc/stacktira/keys/$1.trusted.asc
    trust_key "$1" "$5" "$vendor_key"
    probe=$run_dir/probe
    rm -rf "$probe"
    mkdir -p "$probe"
    if [ "$(family)" = el ]; then rpm_source "$1" "$2" "$vendor_key" 1; else deb_source "$2" "$3" "$4" "$vendor_key"; fi >"$probe/stacktira-$1.$(suffix)"
    change "probe_$(family)" "$probe" || die 69 "the repository of $1 cannot be used: $2; the other sources are as they were"
    atomic_write 0644 "$(dirname "$(source_file)")/stacktira-$1.$(suffix)" <"$probe/stacktira-$1.$(suffix)" || true
    rm -rf "$probe"
    change update_lists || die 69 "the repository of $1 cannot be used: $2"
}

trust_key() {
    found_key=$run_dir/$1.key
    if [ -s "$config_dir/keys/$1.asc" ]; then cp "$config_dir/keys/$1.asc" "$found_key"
    elif [ -s "$here/keys/$1.asc" ]; then cp "$here/keys/$1.asc" "$found_key"
    else
        curl -sf -L --proto '=https' --connect-timeout 10 --max-time 60 --max-filesize 100000 -o "$found_key" "$2" ||
            die 69 "the key of $1 is neither in $config_dir/keys/$1.asc nor can it be fetched: $2"
    fi
    "$here/keys/fingerprints" "$found_key" >"$run_dir/$1.fingerprints" || die 65 "the key of $1 cannot be read; next: look at $found_key"
    cat "$here/keys/$1.fingerprints" "$config_dir/keys/$1.fingerprints" 2>/dev/null | sed -e 's/#.*//' -e 's/[^0-9A-Fa-f]//g' -e '/^$/d' >"$run_dir/$1.accepted" || true
    stranger=$(grep -ivxF -f "$run_dir/$1.accepted" "$run_dir/$1.fingerprints" | head -n 1 || true)
    [ -z "$stranger" ] || die 65 "the key of $1 has a fingerprint that is not on our list: $stranger; next: verify it, then add it to $config_dir/keys/$1.fingerprints"
    atomic_write 0644 "$3" <"$found_key" || true
}
