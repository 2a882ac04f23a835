# shellcheck shell=sh
# Step of converge.sh: packages. When a node leaves a snapshot, what it had from there and what the present one has in an
# earlier version alone goes back to that: after a rollout that returned, a rollback, or a version that was withdrawn.
# What came from elsewhere (the machine's image, an operator) stays, and so does what is held.

# packages_follow NOW: the packages are those of this snapshot, or of none. What was done last is kept, so that a run
# that was cut off is made up for.
packages_follow() {
    packages_record=$state_dir/packages.snapshot
    packages_before=$(cat "$packages_record" 2>/dev/null || true)
    [ "$packages_before" != "$1" ] || return 0
    if [ -n "$packages_before" ]; then
        packages_back=$(packages_to_return "$packages_before" "$1") || return
        if [ -n "$packages_back" ]; then
            log "back to the snapshot's versions: $(printf '%s' "$packages_back" | tr '\n' ' ')"
            # shellcheck disable=SC2086 # a list of NAME:ARCHITECTURE=VERSION
            DEBIAN_FRONTEND=noninteractive apt-get -q -y -o APT::Install-Recommends=false -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
                -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold --allow-downgrades install $packages_back >&2 || return
        fi
    fi
    # apt removes no lists of other snapshots by itself.
    for packages_list in "$root"/var/lib/apt/lists/*_snap_*; do
        case $packages_list in *_snap_"$1"_*) ;; *) rm -f "$packages_list" ;; esac
    done
    printf '%s\n' "$1" | atomic_write 0644 "$packages_record" || true
}

# packages_offered SNAPSHOT: `NAME:ARCHITECTURE VERSION` of all that apt's lists have of it. Uses $work.
packages_offered() {
    for packages_list in "$root"/var/lib/apt/lists/*_snap_"$1"_*_Packages*; do
        [ ! -e "$packages_list" ] || /usr/lib/apt/apt-helper cat-file "$packages_list" || return
    done >"$work/lists"
    awk '
        /^Package:/ { name = $2 } /^Architecture:/ { architecture = $2 } /^Version:/ { version = $2 }
        $0 == "" && name != "" { print name ":" architecture, version; name = "" }
        END { if (name != "") print name ":" architecture, version }' "$work/lists"
}

# packages_to_return BEFORE NOW: as `NAME:ARCHITECTURE=VERSION`.
packages_to_return() (
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    packages_offered "$1" >"$work/before" && packages_offered "$2" >"$work/now" || exit
    # Held ones (h) are the operator's; of those that are gone (n) or purged but for their configuration (c) nothing is here.
    dpkg-query -W -f '${db:Status-Abbrev} ${Package}:${Architecture} ${Version}\n' >"$work/all" || exit
    awk '$1 ~ /^[^h][^nc]/ { print $2, $3 }' "$work/all" >"$work/installed"
    # What is installed came from BEFORE, and NOW has the package, but not in this version.
    awk -v now="$work/now" '
        BEGIN { while ((getline line <now) > 0) { split(line, part, " "); has[line]; there[part[1]] = there[part[1]] " " part[2] } }
        FILENAME == ARGV[1] { before[$0]; next }
        ($0 in before) && !($0 in has) && ($1 in there) { print $1, $2 there[$1] }' "$work/before" "$work/installed" >"$work/candidates"
    while read -r package installed offered; do
        newest=
        for version in $offered; do
            [ -n "$newest" ] && dpkg --compare-versions "$version" lt "$newest" || newest=$version
        done
        ! dpkg --compare-versions "$newest" lt "$installed" || printf '%s=%s\n' "$package" "$newest"
    done <"$work/candidates"
)
