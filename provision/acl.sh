#!/bin/sh
# Lays down Consul's policies and tokens: on a server, as soon as there is a leader. Safe to run again and on all
# servers at the same time; stacktira-acl.service does, at each boot and until it succeeds.
set -eu

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
script=acl
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=lib/secrets.sh
. "$here/lib/secrets.sh"

case ${1:-} in
    '') ;;
    --help)
        cat <<'END'
Usage: acl.sh [--help]

Brings Consul's policies (provision/acl/*.hcl) and the tokens that are derived from /etc/stacktira/secrets to where
they should be. Needs the secret `management`, so it runs on Consul's servers.

Environment:
  STACKTIRA_ROOT     prefix of every path
  CONSUL_HTTP_ADDR   the agent, HOST:PORT (default: 127.0.0.1:8500)

Exit status: 0 done   1 Consul refused   2 usage   65 no secret   69 no leader
END
        exit 0
        ;;
    *) die 2 "unknown argument: $1" ;;
esac

address=${CONSUL_HTTP_ADDR:-127.0.0.1:8500}
address=${address#http://}
[ -s "$secrets_dir/management" ] || die 65 "$secrets_dir/management is not here: this is done on Consul's servers"
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# as SECRET: settings for curl with a token, so that it is in no argument.
as() { printf 'header = "X-Consul-Token: '; token "$@"; printf '"\n'; }
as management management >"$work/manager"

# ask TOKENFILE METHOD PATH [BODYFILE]: into $work/answer; the status is printed.
ask() {
    curl --config "$1" --noproxy '*' -s --connect-timeout 3 --max-time 15 -o "$work/answer" -w '%{http_code}' -X "$2" \
        ${4:+--data-binary "@$4"} "http://$address/v1/$3" || true
}

put() {
    status=$(ask "$work/manager" PUT "$1" "$2")
    [ "$status" = 200 ] || die 1 "Consul answers $status to $1: $(head -c 200 "$work/answer" 2>/dev/null)"
}

# policy NAME: as its file says.
policy() {
    status=$(ask "$work/manager" GET "acl/policy/name/stacktira-$1")
    id=
    [ "$status" != 200 ] || id=$(json_get "$work/answer" ID)
    rules=$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' "$here/acl/$1.hcl" | awk '{ printf "%s\\n", $0 }')
    printf '{"Name": "stacktira-%s", "Description": "provision/acl/%s.hcl", "Rules": "%s"}\n' "$1" "$1" "$rules" >"$work/policy"
    if [ -z "$id" ]; then
        # Another server may have been faster.
        status=$(ask "$work/manager" PUT acl/policy "$work/policy")
        [ "$status" = 200 ] || [ "$(ask "$work/manager" GET "acl/policy/name/stacktira-$1")" = 200 ] || die 1 "Consul answers $status to the policy $1"
    elif [ "$(json_get "$work/answer" Rules)" != "$(cat "$here/acl/$1.hcl")" ]; then
        put "acl/policy/$id" "$work/policy"
    fi
}

# entitle PURPOSE SECRET POLICY...: the derived token exists, with these policies.
entitle() {
    as "$1" "$2" >"$work/own"
    purpose=$1
    secret=$2
    shift 2
    # What is not there answers 403; a proxy or a lost leader may answer anything else.
    status=$(ask "$work/own" GET acl/token/self)
    case $status in
        200) return 0 ;;
        403) ;;
        *) die 69 "Consul answers $status to acl/token/self" ;;
    esac
    {
        printf '{"SecretID": "'
        token "$purpose" "$secret"
        printf '", "Description": "stacktira: %s", "Policies": [' "$purpose"
        separator=
        for name; do
            printf '%s{"Name": "stacktira-%s"}' "$separator" "$name"
            separator=', '
        done
        printf ']}\n'
    } >"$work/token"
    status=$(ask "$work/manager" PUT acl/token "$work/token")
    [ "$status" = 200 ] || [ "$(ask "$work/own" GET acl/token/self)" = 200 ] || die 1 "Consul answers $status to the token $purpose"
}

led() { [ "$(ask "$work/manager" GET acl/token/self)" = 200 ]; }
retry "${STACKTIRA_WAIT:-60}" led || die 69 "Consul has no leader that knows the management token"
for name in agent default node sealed hypervisor mirror operator; do policy "$name"; done
entitle agent cluster agent
entitle default cluster default
entitle node cluster node sealed
entitle hypervisor hyper node sealed hypervisor
entitle operator control node operator
# A cluster whose mirror belongs to none of its nodes has no such secret.
[ ! -s "$secrets_dir/mirror" ] || entitle mirror mirror node sealed mirror
log "policies and tokens are in place"
