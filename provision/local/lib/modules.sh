# shellcheck shell=bash
# Upstream git repositories for the local environment, made of the distribution's Puppet modules. They
# stand under the hosts and paths of their real upstreams, as any other mirror does, so that nodes
# use the same manifest, `mirror-sync` and `cloner` as everywhere.

# Prints the directory of bare repositories for this pool.
modules_ensure() {
    local pool=$1 git
    git=$cache/git-$({ basename "$pool"; cat "$here/repos.yaml" "$here/lib/modules.sh"; } | digest_of)
    [ -e "$git/complete" ] || with_lock "$cache/git.lock" modules_build "$pool" "$git" >&2
    printf '%s\n' "$git"
}

modules_build() {
    local pool=$1 git=$2 new=$2.new work deb module directory count=0
    [ ! -e "$git/complete" ] || return 0
    rm -rf "$new"
    mkdir -p "$new"
    work=$(mktemp -d "$cache/modules.XXXXXX")
    # This runs in the subshell of its lock, which a failure ends: nothing half made stays in the cache.
    # shellcheck disable=SC2064 # the names as they are now
    trap "rm -rf '$work' '$new'" EXIT
    mkdir -p "$work/root/usr/share/puppet"
    for deb in "$pool"/modules/*.deb; do
        rm -rf "$work/one"
        dpkg-deb -x "$deb" "$work/one"
        # The distribution moves a module's external facts out of it; its repository has them inside.
        [ ! -d "$work/one/etc/facter/facts.d" ] ||
            mv "$work/one/etc/facter/facts.d" "$(find "$work/one/usr/share/puppet" -mindepth 2 -maxdepth 2 -type d | sed -n 1p)/facts.d"
        cp -r "$work/one/usr/share/puppet/." "$work/root/usr/share/puppet/"
    done
    # name <tab> source, from the manifest itself: nothing is placed yet, which --status calls a difference
    mkdir "$work/empty"
    { "$tools/cloner" --status --json --root "$work/empty" "$here/repos.yaml" || [ $? -eq 1 ]; } |
        sed -n 's/.*"name":"\([^"]*\)".*"source":"\([^"]*\)".*/\1\t\2/p' >"$work/wanted"
    [ -s "$work/wanted" ] || die 1 "no repositories were read from $here/repos.yaml"
    while IFS=$(printf '\t') read -r module source; do
        module=${module##*::}
        directory=$(modules_find "$work/root" "$module")
        [ -n "$directory" ] || die 1 "no package of the distribution holds the module '$module' of $here/repos.yaml"
        modules_commit "$directory" "$new/$(modules_path "$source")"
        count=$((count + 1))
    done <"$work/wanted"
    : >"$new/complete"
    rm -rf "$git"
    mv -T "$new" "$git"
    lap "git repositories made ($count modules)"
}

# https://host/path(.git) -> host/path.git
modules_path() {
    local path=${1#*://}
    path=${path%/}
    printf '%s.git\n' "${path%.git}"
}

modules_find() {
    find "$1/usr/share/puppet" -mindepth 2 -maxdepth 2 -type d \( -name "$2" -o -name "*-$2" \) | sort | sed -n 1p
}

# One commit with a fixed author and time: the same packages give the same ids everywhere.
modules_commit() {
    local tree=$1 repository=$2 branch=debian/$box_codename
    git init --quiet --bare --initial-branch="$branch" "$repository"
    (
        export GIT_DIR=$repository GIT_WORK_TREE=$tree GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
        export GIT_AUTHOR_NAME=Stacktira GIT_AUTHOR_EMAIL=stacktira@localhost GIT_AUTHOR_DATE='2000-01-01T00:00:00Z'
        export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
        git add --all --force
        git commit --quiet --message "As packaged by the distribution"
    )
    rm -f "$repository/index"
}
