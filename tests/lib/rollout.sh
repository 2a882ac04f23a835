# shellcheck shell=bash
# What the test of rollouts needs of packages: small ones of its own, in a directory that is one more source of the
# build node's mirror. Sourced after cluster.sh, before the cluster is made; `probe_clean` removes the directory.

probe_debs=$(mktemp -d)
chmod 755 "$probe_debs"
export STK_LOCAL_EXTRA_DEBS=$probe_debs

probe_clean() { rm -rf "$probe_debs"; }

# probe_package NAME VERSION [DEPENDS [SCRIPT NAME-OF-SCRIPT]]: the source has this version of it, and no other.
probe_package() {
    local work
    work=$(mktemp -d)
    chmod 755 "$work"
    install -d "$work/DEBIAN" "$work/usr/share/$1"
    printf '%s\n' "$2" >"$work/usr/share/$1/version"
    printf 'Package: %s\nVersion: %s\nArchitecture: all\n%sMaintainer: Stacktira <stacktira@localhost>\nDescription: a package that tests roll out\n' \
        "$1" "$2" "${3:+Depends: $3
}" >"$work/DEBIAN/control"
    if [ -n "${4:-}" ]; then
        printf '#!/bin/sh\n%s\n' "$4" >"$work/DEBIAN/$5"
        chmod 755 "$work/DEBIAN/$5"
    fi
    dpkg-deb --root-owner-group -Zgzip --build "$work" "$probe_debs/.new" >/dev/null
    rm -rf "$work"
    find "$probe_debs" -name "$1_*" -delete
    mv "$probe_debs/.new" "$probe_debs/$1_$2_all.deb"
}

# probe_on NODE [PACKAGE]: state and version of it there, as dpkg knows them.
probe_on() { node "$1" dpkg-query -W -f '${db:Status-Abbrev}${Version}' "${2:-st-probe}" 2>/dev/null | tr -d ' '; }
probe_is() { [ "$(probe_on "$1" "${3:-st-probe}")" = "ii$2" ]; }
# probe_at NODE VERSION: when it came there, which versions it ever had.
probe_at() { sed -n "s/^\([-0-9]* [:0-9]*\) \(install\|upgrade\) st-probe:all [^ ]* $2\$/\1/p" "$test_state/$1/root/var/log/dpkg.log" | tail -n 1; }
probe_ever() { awk '$4 == "st-probe:all" && ($3 == "install" || $3 == "upgrade") { print $6 }' "$test_state/$1/root/var/log/dpkg.log" | paste -sd' '; }

# own_git: the upstream of the build node's git becomes a copy that can be changed. module_commit TEXT: a commit there.
own_git() {
    node build1 sh -euc 'cp -a /srv/git /var/lib/stk-git
        sed -i "s|mirror: /srv/git}|mirror: /var/lib/stk-git}|" /etc/stacktira/mirror.yaml
        grep -q "mirror: /var/lib/stk-git}" /etc/stacktira/mirror.yaml'
}
module_commit() {
    node build1 sh -euc '
        export GIT_DIR=/var/lib/stk-git/github.com/puppetlabs/puppetlabs-translate.git GIT_INDEX_FILE=/tmp/stk-index
        export GIT_AUTHOR_NAME=stk GIT_AUTHOR_EMAIL=stk@localhost GIT_COMMITTER_NAME=stk GIT_COMMITTER_EMAIL=stk@localhost
        git read-tree debian/bookworm
        git update-index --add --cacheinfo "100644,$(printf "%s\n" "$1" | git hash-object -w --stdin),stk-probe"
        git update-ref refs/heads/debian/bookworm "$(git commit-tree -p debian/bookworm -m "$1" "$(git write-tree)")"' module "$1"
}
# module_is NODE TEXT: what that file says there; without TEXT, it is not there.
module_is() {
    local file=/var/lib/stacktira/puppet/modules/translate/stk-probe
    if [ $# -gt 1 ]; then file_is "$1" "$file" "$2"; else [ ! -e "$test_state/$1/root$file" ]; fi
}

# What a node uses, what the channel names, and what the mirror has.
snapshot_of() { sed -n 's#^URIs: .*/snap/\([0-9a-f]*\)/.*#\1#p' "$test_state/$1/root/etc/apt/sources.list.d/stacktira.sources" | sort -u; }
channel_now() { node infra1 consul-kv get stacktira/mirror/channel/stable; }
published_mirror() { sed -n 's/.*"mirror": "\([0-9a-f]*\)".*/\1/p' "$test_state/$1/root/var/lib/stacktira/run.json"; }
new_snapshot() { "$stk" mirror --quiet sync && "$stk" mirror snapshot; }

# rollout SNAPSHOT [OPTION...]: hyper1 first, then half of the others, then all.
rollout() {
    local id=$1
    shift
    "$stk" mirror -v rollout start "$id" --channel stable --canary node=hyper1 --waves 50% --settle 3s --failed-runs 0 "$@"
}

# rollout_in_order VERSION: the nodes got it stage by stage, as it was planned ($plan), which dpkg's own log shows.
rollout_in_order() {
    local stage names n at first latest= before=
    while read -r stage names; do
        first=
        for n in ${names//,/ }; do
            at=$(probe_at "$n" "$1")
            [ -n "$at" ] || { echo "$n never got it"; return 1; }
            [ -n "$first" ] && [[ "$first" < "$at" ]] || first=$at
            [[ "$at" < "$latest" ]] || latest=$at
        done
        [ -z "$before" ] || [[ "$before" < "$first" ]] || { echo "$stage ($names) began at $first, the stage before ended at $before"; return 1; }
        before=$latest
    done <<<"$plan"
}
