#!/bin/sh
# One run: what `ts` starts. Follows the mirror's channel, brings the modules, elects where work is to be
# done once, applies the catalog and publishes how it went. Codes are Puppet's: 0 nothing to do, 2 changed,
# 1, 4 and 6 failed and worth another try.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=converge
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=lib/packages.sh
. "$here/lib/packages.sh"

case ${1:-} in
    '') ;;
    --help)
        cat <<'END'
Usage: converge.sh [--help]

One run of this node, as `ts` starts it; ask for one with provision/kick. Why it was asked for is in TS_REASON.

Exit status: Puppet's. 0 nothing to do   2 changed   1, 4, 6 failed and worth another try
END
        exit 0
        ;;
    *) die 1 "unknown argument: $1" ;;
esac

node=$(uname -n | sed 's/\..*//')
environment=$here/puppet
modules=$state_dir/puppet
record=$state_dir/run.json
summary=$state_dir/last_run_summary.yaml
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
began_exactly=$(date +%s.%N)
began=${began_exactly%.*}
# The change that the first kick of this run was for, if a watch kicked: its environment comes along.
watch=$(printf '%s' "${STACKTIRA_WATCH_NAME:-}" | tr -cd 'A-Za-z0-9._-')
index=$(printf '%s' "${STACKTIRA_WATCH_INDEX:-}" | tr -cd 0-9)
seen=$(printf '%s' "${STACKTIRA_WATCH_SEEN:-}" | grep -x '[0-9]\{1,12\}\.[0-9]\{3\}' || true)
reason=$(printf '%s' "${TS_REASON:-unknown}" | tr -d '\042\134' | tr -c '[:print:]' ' ')

# count NAME: of the resources in Puppet's own summary of this run.
count() { sed -n "/^resources:/,/^[a-z]/s/^  $1: \([0-9]*\)\$/\1/p" "$summary" 2>/dev/null | head -n 1 | grep . || printf 0; }

# publish STATE CODE SECONDS: the same small document locally and in Consul; nobody waits for it. While a
# run goes on, code and duration are those of the run before it.
publish() {
    atomic_write 0644 "$record" <<EOF || true
{"v": 1, "node": "$node", "state": "$1", "exit_code": $2, "started": "$started", "duration": $3, "changed": $(count changed), "failed": $(count failed), "pending": $(count out_of_sync), "repos": "$(lock_digest)", "mirror": "$(snapshot_id)", "reason": "$reason", "cause": $(cause)}
EOF
    # Consul may be what is broken; the next run publishes again.
    consul-kv put "stacktira/node/$node" <"$record" >/dev/null 2>&1 || log "warning: the state could not be published in Consul"
}

# cause: what was changed in Consul, and how many seconds ago this node saw that: from a write to "converged".
cause() {
    [ -n "$seen" ] || { printf null; return; }
    printf '{"watch": "%s", "index": %s, "seen": %s, "after": %s}' "$watch" "${index:-null}" "$seen" \
        "$(date +%s.%N | awk -v seen="$seen" '{ printf "%.1f", $1 - seen }')"
}

lock_digest() { sha256sum "$state_dir/repos.lock" 2>/dev/null | cut -c1-16; }
snapshot_id() { sed -n 's#^\(URIs: \|baseurl=\).*/snap/\([0-9a-f]*\)/.*#\2#p' "$root/etc/apt/sources.list.d/stacktira.sources" "$root/etc/yum.repos.d/stacktira.repo" 2>/dev/null | head -n 1; }

# fail STEP CODE: says it, publishes it, and lets `ts` try again.
fail() {
    log "error: $1 failed with code $2"
    publish failed 1 $(($(date +%s) - began))
    remember 1
    exit 1
}

# remember CODE: one line of history; the newest thousand are kept.
remember() {
    history=$state_dir/runs
    { tail -n 999 "$history" 2>/dev/null || true; printf '%s %s %ss %s\n' "$began_exactly" "$1" "$(($(date +%s) - began))" "$reason"; } >"$history.new"
    mv -f "$history.new" "$history"
}

# `ts` ends a run at its time limit, people with `ts -k`; what is published must not say "running" for ever.
trap 'fail "this run, which was told to end," 143' TERM INT

rm -f "$summary"
last=$(sed -n 's/.*"exit_code": \([0-9]*\).*"duration": \([0-9]*\).*/\1 \2/p' "$record" 2>/dev/null || true)
[ -n "$last" ] || last='null null'
publish running "${last% *}" "${last#* }"

mirror=$(meta mirror_address '')
if [ -n "$mirror" ]; then
    code=0
    mirror-sync --config "$config_dir/mirror.yaml" apply || code=$?
    # Consul's policies may not be laid yet where the whole cluster is new.
    if [ $code -eq 77 ] && retry 60 consul_answers; then
        code=0
        mirror-sync --config "$config_dir/mirror.yaml" apply || code=$?
    fi
    # 69: the mirror or Consul is away. What is installed stays, and the run goes on with it.
    case $code in
        0) [ "$(family)" = el ] || packages_follow "$(snapshot_id)" || fail "going back to the snapshot's packages" $? ;;
        69) log "warning: the mirror cannot be asked; going on with what is here" ;;
        *) fail "mirror-sync apply" $code ;;
    esac
    [ "$(family)" = el ] || dpkg --configure -a >/dev/null || fail "dpkg --configure -a" $?
fi

# The commits are those of the snapshot, not what the mirror's git has by now.
refs=$state_dir/apply/refs.index
[ -n "$mirror" ] && [ -s "$refs" ] || refs=
code=0
cloner ${mirror:+--mirror "$mirror/git"} ${refs:+--refs "$refs"} --mode export --root "$modules" --lock "$state_dir/repos.lock" --timeout 2m "$here/$(meta repos_manifest ../repos.yaml)" || code=$?
case $code in
    0) ;;
    *)
        [ -d "$modules/modules/stdlib" ] || fail cloner $code
        log "warning: cloner ended with $code; going on with the modules that are here"
        ;;
esac

# A run that cannot see Consul must not start: an empty answer would empty configuration.
retry 60 consul_answers || fail "waiting for Consul" $?

# Work that is to be done once in the cluster belongs to one node of the role, chosen for good.
code=0
election=$(hiera-consul lookup --render-as s stacktira::elect) || code=$?
case $code in
    0) consul-elect once "$election" >/dev/null || fail "consul-elect once $election" $? ;;
    1) election= ;;
    *) fail "hiera-consul lookup stacktira::elect" $code ;;
esac
"$here/share-secrets.sh" "$election" || fail "making or waiting for the secrets" $?

# Where Hiera caps how many nodes run at once, Puppet waits for a slot. A slot that is lost does not cut Puppet off.
code=0
limit=$(hiera-consul lookup --render-as s stacktira::limit) || code=$?
case $code in
    0) set -- consul-elect slot "$(hiera-consul lookup --render-as s --default converge stacktira::limit_name)" \
        --limit "$limit" --timeout 10m --kill-after 4s --on-loss continue -- ;;
    1) set -- ;;
    *) fail "hiera-consul lookup stacktira::limit" $code ;;
esac

# Puppet's providers for Keystone start the client anew for each question; this one answers them from one process.
[ ! -x /usr/bin/openstack ] || PATH=$environment/bin:$PATH

code=0
"$@" puppet apply --detailed-exitcodes --color=false --hiera_config "$environment/hiera.yaml" \
    --modulepath "$environment/site-modules:$modules/modules" --lastrunfile "$summary" \
    --logdest console "$environment/manifests/site.pp" || code=$?
case $code in 124 | 125 | 126 | 127) fail "waiting for a slot, or starting Puppet," $code ;; esac
case $code in
    0 | 2)
        finished=converged
        : >"$state_dir/converged"
        ;;
    *) finished=failed ;;
esac
publish $finished "$code" $(($(date +%s) - began))
remember "$code"
exit "$code"
