#!/usr/bin/env bash
# The check for Hiera keys that name no class parameter: what Puppet ignores without a word.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

ruby -rpuppet -e 1 2>/dev/null || skip_all "Puppet is not here: make test-deps"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
lint() { ruby "$repo/tests/lib/hiera-keys.rb" "$@"; }

mkdir -p "$scratch/a/web/manifests" "$scratch/b/web/manifests" "$scratch/b/db/manifests/server"
printf 'class web(String $name_of, $port = 80) { }\n' >"$scratch/a/web/manifests/init.pp"
printf 'class web($other) { }\n' >"$scratch/b/web/manifests/init.pp"
printf 'class db::server::tuning(\n  # $commented,\n  Hash[String, Integer] $sizes = {},\n) inherits db { }\n' >"$scratch/b/db/manifests/server/tuning.pp"
printf 'define db::backup($where) { }\n' >"$scratch/b/db/manifests/backup.pp"
path=$scratch/a:$scratch/b
cat >"$scratch/good.yaml" <<'END'
---
web::port: 8080
web::name_of: x
db::server::tuning::sizes: {a: 1}
a_key_of_ours: 1
stacktira::elect: control
lookup_options: {"web::port": {merge: first}}
END
ok "keys of parameters pass" lint "$path" "$scratch/good.yaml"
is "and are counted" "$tap_output" '3 keys, 0 dead'

# What each line is dead of.
dead() {
    printf -- '---\n%s: 1\n' "$2" >"$scratch/dead.yaml"
    fails_with 1 "$1" lint "$path" "$scratch/good.yaml" "$scratch/dead.yaml"
    says "and is said" "$3"
    says "and counted" '4 keys, 1 dead'
}
dead "a parameter that moved away" web::admin_token 'dead\.yaml: web::admin_token: the class web has no parameter admin_token'
dead "a class that is gone" db::old::thing 'db::old::thing: there is no class db::old'
dead "a module that is not here" cinder::api::workers 'there is no class cinder::api'
dead "a parameter that is only in a comment" db::server::tuning::commented 'has no parameter commented'
dead "a parameter of the module that comes second on the path" web::other 'the class web has no parameter other'
dead "a defined type, whose parameters Hiera does not fill" db::backup::where 'there is no class db::backup'
fails_with 1 "nothing to check is usage" lint "$path"

# Our own data, as far as our own classes go; those of the other modules are checked in a cluster, where the modules are.
mapfile -t files < <(find "$repo/provision/puppet/data" -name '*.yaml' | sort)
is "no key of a class of ours is dead" \
    "$(ruby "$repo/tests/lib/hiera-keys.rb" "$repo/provision/puppet/site-modules" "${files[@]}" | grep ': stacktira::' || true)" ""

plan_done
