#!/usr/bin/env bash
# bootstrap.sh in a scratch root: options, role, provisioner, order of steps, second runs, dry runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"

ok "--help is help" "$repo/provision/bootstrap.sh" --help
says "it names its options" '--role ROLE'
fails_with 2 "an unknown argument is refused" "$repo/provision/bootstrap.sh" --frob
says "and named" '--frob'
for option in --role --provisioner --mirror --proxy --no-proxy; do
    fails_with 2 "$option without a value" "$repo/provision/bootstrap.sh" "$option"
done
fails_with 2 "a value of two lines" "$repo/provision/bootstrap.sh" --role $'infra\nproxy=x'
for script in bootstrap build consul acl secrets puppet confd none example converge package; do
    ok "$script.sh --help is help" "$repo/provision/$script.sh" --help
    says "$script.sh: and says how it is used" "^Usage: $script.sh"
    fails_with "$([ $script = converge ] && echo 1 || echo 2)" "$script.sh --frob is refused" "$repo/provision/$script.sh" --frob
done
ok "kick --help is help" "$repo/provision/kick" --help
says "kick: and says how it is used" "^Usage: kick"
while read -r option; do
    ok "what --help names is an option: $option" grep -qE -- "(^| )$option( |\))" "$repo/provision/bootstrap.sh"
done < <("$repo/provision/bootstrap.sh" --help | sed -n 's/^  \(--[a-z-]*\).*/\1/p')

fresh
ok "a node of the role infra" bootstrap --provisioner none
is "says one line for each step" "$(printf '%s\n' "$tap_output" | sed -n 's/^bootstrap: \([a-z]*\): .*/\1/p' | paste -sd' ')" 'detect metadata role proxy sources tools facts hosts consul provisioner'
is "and nothing else but the end" "$(printf '%s\n' "$tap_output" | wc -l)" 11
says "which names the role" "bootstrapped as 'infra'"
is "its log is for its administrators" "$(stat -c %a "$root/var/log/stacktira/bootstrap.log")" 640
is "the metadata's role is a fact" "$(fact_of role)" infra
is "the tools are installed once" "$(calls "install stacktira$")" 1
ok "it is bootstrapped" test -e "$root/var/lib/stacktira/bootstrapped"
before=$(tree)
ok "a second time" bootstrap
is "changes nothing" "$(tree)" "$before"
is "and is the same node: the option is kept" "$(cat "$root/etc/stacktira/bootstrap.conf")" provisioner=none
rm -rf "$root/run"
ok "after a restart" bootstrap
is "nothing changes" "$(tree)" "$before"

# Role: option, metadata, name.
fresh
ok "--role wins" bootstrap --role hyper --provisioner none
is "over the metadata's" "$(fact_of role)" hyper
ok "and is kept" bootstrap
is "for the next time" "$(fact_of role)" hyper
ok "until it is taken away" bootstrap --role ''
is "and the metadata's counts again" "$(fact_of role)" infra
fresh
metadata "$words"
settings=(NODE=Proxy17.example)
ok "without a role, the letters of the name" bootstrap --provisioner none
is "are the role" "$(fact_of role)" proxy
fresh
metadata "$words"
settings=(NODE=17.example)
fails_with 2 "a name without letters is no role" bootstrap
fails_with 2 "a role that is no name" bootstrap --role '../x'
says "is named" "'../x' is no role"
fails_with 2 "a role that is unknown" bootstrap --role webfarm
says "and the known ones are listed" 'build control hyper infra proxy'

# Provisioner: option, metadata, puppet; the role's own script before it.
fresh
fails_with 2 "a provisioner that is unknown" bootstrap --provisioner chef
says "is named" "no provisioner 'chef'"
says "with the known ones" 'there are: build confd example none puppet'
fails_with 2 "a script that is no provisioner" bootstrap --provisioner bootstrap
fails_with 2 "a provisioner that is a path" bootstrap --provisioner ../../bin/sh
fresh
metadata "\"role\": \"infra\", \"provisioner\": \"none\", $words"
ok "the metadata's provisioner" bootstrap
says "runs" 'provisioner: none'
fresh
ok "without any word it is Puppet" bootstrap
says "that runs" 'provisioner: puppet'
ok "which leaves a watch" grep -q 'prefix: hiera/' "$root/etc/stacktira/watch.yaml"
# The packages' scripts ask this whether they may start their services.
policy=$root/usr/sbin/policy-rc.d
is "and lets Debian's packages start no service" "$(stat -c %a "$policy")" 755
sed -i "s|/var/lib|$root&|" "$policy"
fails_with 101 "until a run has succeeded" "$policy" mariadb start
: >"$root/var/lib/stacktira/converged"
ok "and from then on any" "$policy" mariadb start
rm "$root/var/lib/stacktira/converged"
printf '#!/bin/sh\nexit 0\n' >"$policy"
ok "an answer of somebody else's" bootstrap
is "stays" "$(cat "$policy")" "$(printf '#!/bin/sh\nexit 0')"
fresh
system almalinux 9.6
ok "EL, whose packages start nothing," bootstrap
ok "has no such file" test ! -e "$policy"
fresh hyper
ok "confd instead" bootstrap --provisioner confd
ok "renders from Consul" grep -q 'backend = "consul"' "$root/etc/confd/confd.toml"
is "with its package" "$(calls 'install confd')" 1
is "the token is in none of its files" "$(grep -rlF "$(cat "$root/etc/stacktira/consul.token")" "$root/etc" | sed "s|$root||")" /etc/stacktira/consul.token
fresh hyper
ok "the example for tools of one's own" bootstrap --provisioner example
is "knows who it is" "$(cat "$root/etc/issue.d/stacktira.issue")" "infra1: hyper, 192.0.2.31"
fresh
cp -r "$repo/provision" "$scratch/own"
printf '#!/bin/sh\n# Provisioner: infra, by hand\necho ran >"$STACKTIRA_ROOT/ran"\n' >"$scratch/own/infra.sh"
chmod +x "$scratch/own/infra.sh"
ok "a script with the role's name goes before --provisioner" on_node "$scratch/own/bootstrap.sh" --provisioner none
ok "and ran" test -e "$root/ran"
printf '#!/bin/sh\n# Provisioner: infra, by hand\necho "infra: error: no luck today" >&2\nexit 3\n' >"$scratch/own/infra.sh"
fails_with 3 "its code is the bootstrap's" on_node "$scratch/own/bootstrap.sh"
says "its words are told" 'infra: error: no luck today'
says "with step, code, log and what to do" 'stopped at step provisioner with code 3; log: .*/var/log/stacktira/bootstrap.log; next: .* again'
rm "$root/var/lib/stacktira/bootstrapped"
fails_with 3 "and a first run that fails" on_node "$scratch/own/bootstrap.sh"
ok "does not make it so" test ! -e "$root/var/lib/stacktira/bootstrapped"
rm -rf "$scratch/own"

# Systems.
for system in 'debian 12 bookworm' 'debian 13 trixie' 'almalinux 9.6' 'rocky 10.0' 'rhel 9.4' 'centos 10' 'ol 9.5'; do
    fresh
    # shellcheck disable=SC2086 # words
    system $system
    ok "$system is known" bootstrap --provisioner none
done
for system in 'debian 11 bullseye' 'ubuntu 24.04 noble' 'almalinux 8.10' 'fedora 42' 'alpine 3.22'; do
    fresh
    # shellcheck disable=SC2086 # words
    system $system
    before=$(tree)
    fails_with 77 "$system is refused" bootstrap --provisioner none
    says "by its name" "this system is ${system% [a-z]*}"
    is "before anything is changed" "$(tree | grep -v '/var')" "$(printf '%s\n' "$before" | grep -v '/var')"
done
fresh
rm "$root/etc/os-release"
fails_with 77 "a system that does not say what it is" bootstrap

# A dry run.
fresh
before=$(tree)
ok "--dry-run" bootstrap --dry-run --role hyper
is "changes nothing" "$(tree)" "$before"
is "not even what is gone after a restart" "$(find "$root/run" 2>/dev/null | wc -l)" 0
says "but says the role" 'role: hyper'
says "what would be written" 'would write .*/stacktira.sources'
says "what would be run" 'would run: install_packages stacktira'
says "and what would follow" 'would run .*/provision/puppet.sh'
is "no package manager was asked" "$(calls '^apt-get')" 0
ok "a bootstrap for real" bootstrap --provisioner none
before=$(tree)
ok "and then --dry-run" bootstrap --dry-run
ok "has nothing to write" sh -c "! printf '%s' \"\$1\" | grep -q 'would write'" sh "$tap_output"
is "and changes nothing" "$(tree)" "$before"

# The printed script is the same, in one file.
"$repo/provision/bootstrap.sh" --print >"$scratch/printed.sh"
ok "--print is a script" bash -n "$scratch/printed.sh"
ok "that is clean" shellcheck -s sh "$scratch/printed.sh"
ok "it sources nothing of ours" sh -c "! grep -E '^ *[.] \"\\\$here' '$scratch/printed.sh'"
fresh
ok "and makes a node alone" on_node STACKTIRA_PROVISION="$repo/provision" sh "$scratch/printed.sh" --provisioner none
is "of the same kind" "$(fact_of role)" infra

# Two at the same time.
fresh
mkdir -p "$root/run/stacktira"
exec 8>"$root/run/stacktira/bootstrap.lock"
flock 8
fails_with 75 "a second bootstrap at the same time" bootstrap
exec 8>&-
ok "waits for nobody afterwards" bootstrap --provisioner none

# Traces and logs.
fresh
ok "traced" on_node bash -x "$repo/provision/bootstrap.sh" --provisioner none
is "no secret is shown" "$(printf '%s\n' "$tap_output" | grep -cE "$secret|$(cat "$root/etc/stacktira/consul.token")|$(cat "$root/etc/stacktira/management.token")" || true)" 0
# shellcheck disable=SC2016
settings=(CONSUL_HTTP_ADDR=127.0.0.1:1)
ok "consul.sh traced" on_node bash -x "$repo/provision/consul.sh"
is "shows none" "$(printf '%s\n' "$tap_output" | grep -cE "$secret|$(cat "$root/etc/stacktira/consul.token")|$(cat "$root/etc/stacktira/management.token")|$(sed -n 's/.*"encrypt": "\(.*\)",/\1/p' "$root/etc/consul.d/20-stacktira.json")" || true)" 0
is "no secret is in an argument" "$(grep -cE "$secret|$(cat "$root/etc/stacktira/consul.token")" "$scratch/calls" || true)" 0
is "or in the log" "$(grep -rcE "$secret|$(cat "$root/etc/stacktira/consul.token")" "$root/var/log" | grep -cv ':0$' || true)" 0

plan_done
