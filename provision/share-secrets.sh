#!/bin/sh
# Secrets of services that nodes share. The elected node makes those that are not there yet, once, and keeps them in
# Consul below stacktira/secret/ROLE/ for each role that needs them; the others wait until theirs are there.
# The list is data: stacktira::secrets, entries "NAME KIND ROLE...". Values never stand in an argument or a log.
#   share-secrets.sh [ELECTION]   what this node was elected under, or nothing when it stands in no election
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=share-secrets
# shellcheck source=lib.sh
. "$here/lib.sh"

prefix=stacktira/secret
wait=${STACKTIRA_SECRETS_WAIT:-300}
umask 077
value=$(mktemp)
trap 'rm -f "$value"' EXIT

# make_value KIND: into $value, whole.
make_value() {
    case $1 in
        # 40 letters and digits: 238 bits.
        password) size=40; dd if=/dev/urandom bs=256 count=1 2>/dev/null | base64 -w 0 | tr -dc 'A-Za-z0-9' | head -c 40 >"$value" ;;
        # What Fernet calls a key: 32 bytes in the URL-safe alphabet.
        fernet) size=44; dd if=/dev/urandom bs=32 count=1 2>/dev/null | base64 -w 0 | tr '+/' '-_' >"$value" ;;
        *) die 65 "stacktira::secrets: '$1' is no kind of secret (password, fernet)" ;;
    esac
    [ "$(wc -c <"$value")" = $size ] || die 1 "no $1 could be made of /dev/urandom"
}

# absent KEY: whether it is not among those that were there when we began.
absent() { ! printf '%s\n' "$there" | grep -Fqx "$1"; }

# share NAME KIND ROLE...: all roles get the value that the first of them has.
share() {
    name=$1 kind=$2 first=$prefix/$3/$1
    if absent "$first"; then
        make_value "$kind"
        # Code 1: somebody else was faster. The value that is there counts.
        consul-kv put "$first" - --cas 0 <"$value" >/dev/null || [ $? -eq 1 ]
    fi
    shift 3
    for audience; do
        absent "$prefix/$audience/$name" || continue
        consul-kv get "$first" >"$value"
        consul-kv put "$prefix/$audience/$name" - --cas 0 <"$value" >/dev/null || [ $? -eq 1 ]
    done
}

listed=0
list=$(hiera-consul lookup --render-as json stacktira::secrets) || listed=$?
case $listed in 0) ;; 1) exit 0 ;; *) exit $listed ;; esac
role=$(json_get "$root/etc/facter/facts.d/stacktira.json" role)
mine=no
if [ -n "${1:-}" ]; then
    elected=0
    consul-elect once "$1" --mine >/dev/null || elected=$?
    case $elected in 0) mine=yes ;; 1) ;; *) exit $elected ;; esac
fi
if [ $mine = yes ]; then
    listed=0
    there=$(consul-kv list "$prefix/") || listed=$?
    [ $listed -le 1 ] || exit $listed
fi

{ printf '%s' "$list" | tr -d '[]"\n' | tr ',' '\n'; echo; } | while read -r entry; do
    printf '%s' "$entry" | grep -Eqx '[a-z][a-z0-9_]* [a-z]+( [a-z][a-z0-9_]*)+' || die 65 "stacktira::secrets: '$entry' is not NAME KIND ROLE..."
    if [ $mine = yes ]; then
        # shellcheck disable=SC2086 # words, as just checked
        share $entry
    else
        case " ${entry#* * } " in
            *" $role "*) consul-kv wait "$prefix/$role/${entry%% *}" --timeout "${wait}s" >/dev/null ;;
        esac
    fi
done
