#!/usr/bin/env bash
# Package sources of bootstrap.sh: the mirror, the system's own, vendors' with their keys; tools, Consul and Puppet from them.
# shellcheck disable=SC2119
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/lib/tap.sh
. "$here/../lib/tap.sh"
# shellcheck source=tests/lib/provision.sh
. "$here/../lib/provision.sh"

# This machine's programs without those that a fresh node has not.
mkdir "$scratch/few"
IFS=: read -r -a places <<<"$PATH"
for place in "${places[@]}"; do
    for found in "$place"/*; do case ${found##*/} in puppet | consul | confd | vagrant) ;; *) [ ! -x "$found" ] || ln -sf "$found" "$scratch/few/" ;; esac; done
done
export PATH="$scratch/few"
no_mirror="\"role\": \"hyper\", \"internal_interface\": \"lan0\", \"consul_join\": \"192.0.2.31\", \"provisioner\": \"none\""
sources() { (cd "$root/etc/apt" && find sources.list sources.list.d -type f 2>/dev/null | sort | paste -sd' '); }

fresh
ok "a mirror" bootstrap --provisioner none
is "is the one source that is left" "$(sources)" sources.list.d/stacktira.sources
ok "the snapshot that the channel names" grep -qx "URIs: http://mirror.invalid:8080/snap/$id/deb/debian" "$root/etc/apt/sources.list.d/stacktira.sources"
ok "of this release" grep -qx "Suites: bookworm" "$root/etc/apt/sources.list.d/stacktira.sources"
ok "signed by the site's key" grep -q '^Signed-By: .*/etc/stacktira/site.asc$' "$root/etc/apt/sources.list.d/stacktira.sources"
is "which came with the metadata" "$(cat "$root/etc/stacktira/site.asc")" KEY
ok "the old source is put aside" test -e "$root/etc/apt/disabled-by-stacktira/sources.list"
is "the new one was probed alone" "$(calls 'SourceList=.*SourceParts=/dev/null.* update')" 1
settings=(APT_UPDATE=100)
fails_with 69 "a mirror that goes away later" bootstrap
is "is still the source" "$(sources)" sources.list.d/stacktira.sources

fresh
rm "$scratch/web/channel/stable.json"
fails_with 69 "a mirror that is away" bootstrap
says "is named" 'the mirror does not answer: http://mirror.invalid:8080/channel/stable.json'
is "and the old sources are as they were" "$(sources)" sources.list
fresh
settings=(APT_UPDATE=100)
fails_with 69 "a mirror whose signature is wrong" bootstrap
is "leaves the old sources" "$(sources)" sources.list
fresh
settings=(APT_INSTALL=100)
fails_with 1 "a package that cannot be installed" bootstrap
says "is named with its source" 'tools cannot be installed from http://mirror.invalid:8080'
for answer in '{"snapshot":"../../etc"}' '{"snapshot":null}' '<html>' ''; do
    fresh
    printf '%s' "$answer" >"$scratch/web/channel/stable.json"
    fails_with 69 "a channel that answers '$answer'" bootstrap
    is "changes nothing" "$(sources)" sources.list
done
fresh
metadata "\"role\": \"infra\", \"internal_interface\": \"lan0\", \"consul_join\": \"192.0.2.31\", \"mirror_address\": \"http://mirror.invalid:8080\""
fails_with 69 "a mirror whose key nobody knows" bootstrap
says "is not believed" "the mirror's key is not known"
printf 'KEY2\n' >"$root/etc/stacktira/site.asc"
ok "a key that the provider has laid down" bootstrap --provisioner none
fresh
mkdir -p "$scratch/web/channel"
printf '{"v":1,"channel":"canary","snapshot":"%s"}\n' "$(printf '%s' "$id" | tr 0 f)" >"$scratch/web/channel/canary.json"
metadata "\"role\": \"infra\", $words, \"mirror_channel\": \"canary\""
ok "another channel" bootstrap --provisioner none
ok "is another snapshot" grep -q "/snap/f123" "$root/etc/apt/sources.list.d/stacktira.sources"
ok "--mirror wins" bootstrap --mirror http://other.invalid
says "over the metadata's" 'sources: http://other.invalid, as before'

for system in 'almalinux 9.6' 'rhel 10.0'; do
    fresh
    # shellcheck disable=SC2086 # words
    system $system
    ok "$system: a mirror" bootstrap --provisioner none
    is "$system: is the one source" "$(cd "$root/etc/yum.repos.d" && find . -name '*.repo')" ./stacktira.repo
    major=$(printf '%s' "$system" | sed 's/.* \([0-9]*\).*/\1/')
    ok "$system: the release's part of the snapshot" grep -qx "baseurl=http://mirror.invalid:8080/snap/$id/rpm/el$major" "$root/etc/yum.repos.d/stacktira.repo"
    ok "$system: whose index must be signed" grep -qx 'repo_gpgcheck=1' "$root/etc/yum.repos.d/stacktira.repo"
    ok "$system: the old one is put aside" test -e "$root/etc/disabled-by-stacktira/base.repo"
    is "$system: probed alone first" "$(calls 'dnf .*reposdir=.*probe.* makecache')" 1
    is "$system: the tools come by dnf" "$(calls 'dnf .*install stacktira')" 1
    before=$(tree)
    ok "$system: a second time" bootstrap
    is "$system: changes nothing" "$(tree)" "$before"
    fresh
    # shellcheck disable=SC2086
    system $system
    settings=(APT_UPDATE=1)
    fails_with 69 "$system: a mirror that is not believed" bootstrap --provisioner none
    is "$system: leaves what was there" "$(cd "$root/etc/yum.repos.d" && find . -name '*.repo')" ./base.repo
done

# Without a mirror.
fresh
metadata "$no_mirror"
ok "without a mirror" bootstrap
is "the system's own sources stay" "$(sources)" sources.list
for line in 'deb [trusted=yes] http://x stable main' 'deb [arch=amd64 allow-insecure=yes] http://x stable main'; do
    fresh
    metadata "$no_mirror"
    printf '%s\n' "$line" >"$root/etc/apt/sources.list.d/evil.list"
    fails_with 65 "refused: $line" bootstrap
    says "with its file" 'without a signature: .*/evil.list'
done
fresh
metadata "$no_mirror"
printf 'Types: deb\nURIs: http://x\nSuites: y\nTrusted: yes\n' >"$root/etc/apt/sources.list.d/evil.sources"
fails_with 65 "refused in the newer format too" bootstrap
fresh
system almalinux 9.6
metadata "$no_mirror"
printf '[evil]\nbaseurl=http://x\ngpgcheck = 0\n' >"$root/etc/yum.repos.d/evil.repo"
fails_with 65 "a repository that dnf would believe" bootstrap
says "with its file" 'without a signature: .*/evil.repo'
fresh
metadata "$no_mirror"
settings=(APT_UPDATE=100)
fails_with 69 "own sources that do not answer" bootstrap

# The tools by their address and digest.
printf 'a package' >"$scratch/package"
sum=$(sha256sum <"$scratch/package" | cut -c1-64)
tools() {
    fresh
    cp "$scratch/package" "$scratch/web/stacktira_1_amd64.deb"
    metadata "$no_mirror, \"tools_url\": \"http://files.invalid/stacktira_1_amd64.deb\", \"tools_sha256\": \"$1\""
}
tools "$sum"
ok "the tools by address" bootstrap
is "are installed" "$(calls "install $root/var/cache/stacktira/stacktira_1_amd64.deb")" 1
tools "$id"
fails_with 65 "with another digest" bootstrap
is "they are not, and not kept" "$(calls ' install .*stacktira_1'):$(find "$root/var/cache" -type f)" 0:
tools none
fails_with 65 "without a digest they are not fetched" bootstrap
is "at all" "$(calls 'curl.*files.invalid')" 0

# Consul: the system's, the vendor's, a program.
fresh
rm "$scratch/bin/consul"
metadata "$no_mirror"
ok "Consul from the system, if it has it" bootstrap
is "is installed" "$(calls '^apt-get .*install consul$')" 1
vendor() {
    fresh hyper
    [ $# -eq 0 ] || system "$@"
    rm "$scratch/bin/consul"
    metadata "$no_mirror"
    settings=(OFFERED=no)
}
vendor
fails_with 69 "else from the vendor, whose key cannot be had" bootstrap
says "says where it was looked for" 'key of hashicorp is neither in .*/keys/hashicorp.asc nor can it be fetched: https://'
vendor
cp "$repo/provision/keys/openvox.asc" "$scratch/web/gpg"
fails_with 65 "a key that is not on our list" bootstrap
says "is named by its fingerprint" 'fingerprint that is not on our list: 0E26429987002418F9513F2A5FB999C2D62FF3D9'
is "no source was added" "$(sources)" sources.list
mkdir -p "$root/etc/stacktira/keys"
printf '0E26 4299 8700 2418 F951  3F2A 5FB9 99C2 D62F F3D9 # verified by us\n' >"$root/etc/stacktira/keys/hashicorp.fingerprints"
ok "when somebody has verified it" bootstrap
is "the source is there, beside the system's" "$(sources)" "sources.list sources.list.d/stacktira-hashicorp.sources"
ok "with that key alone" grep -q '^Signed-By: .*/keys/hashicorp.trusted.asc$' "$root/etc/apt/sources.list.d/stacktira-hashicorp.sources"
is "and Consul is installed" "$(calls 'install consul$')" 1
vendor
mkdir -p "$root/etc/stacktira/keys"
cp "$repo/provision/keys/openvox.asc" "$root/etc/stacktira/keys/hashicorp.asc"
cat "$repo/provision/keys/openvox.fingerprints" >"$root/etc/stacktira/keys/hashicorp.fingerprints"
settings+=(APT_UPDATE=0)
ok "a key file that is there" bootstrap
is "is not fetched" "$(calls 'curl.*hashicorp')" 0
vendor
printf 'not a key' >"$scratch/web/gpg"
fails_with 65 "what is no key" bootstrap
vendor almalinux 9.6
mkdir -p "$root/etc/stacktira/keys"
cp "$repo/provision/keys/openvox.asc" "$root/etc/stacktira/keys/hashicorp.asc"
cp "$repo/provision/keys/openvox.fingerprints" "$root/etc/stacktira/keys/hashicorp.fingerprints"
ok "on EL" bootstrap
ok "packages and index must be signed" sh -c "grep -qx gpgcheck=1 '$root/etc/yum.repos.d/stacktira-hashicorp.repo' && grep -qx repo_gpgcheck=1 '$root/etc/yum.repos.d/stacktira-hashicorp.repo'"
fresh
rm "$scratch/bin/consul"
mkdir -p "$root/srv" "$root/usr/bin"
printf '#!/bin/sh\necho "Consul v1.20.1"\n' >"$root/srv/consul"
chmod +x "$root/srv/consul"
metadata "$no_mirror, \"consul_source\": \"/srv/consul\""
ok "a program that is given" bootstrap
ok "is what runs" cmp "$root/srv/consul" "$root/usr/bin/consul"
ok "with a unit" grep -q 'ExecStart=/usr/bin/consul' "$root/etc/systemd/system/consul.service"
printf '#!/bin/sh\necho hello\n' >"$root/srv/consul"
fails_with 65 "a program that is no Consul" bootstrap
metadata "$no_mirror, \"consul_source\": \"/srv/nothing\""
rm -rf "$root/run"
fails_with 69 "a program that is not there" bootstrap
metadata "$no_mirror, \"consul_source\": \"somewhere\""
rm -rf "$root/run"
fails_with 65 "a source that is none" bootstrap

# Puppet.
puppet() {
    fresh hyper
    metadata "${no_mirror/\"provisioner\": \"none\"/\"provisioner\": \"puppet\"}${1:+, $1}"
}
puppet
ok "Puppet from the system, if it has it" bootstrap
is "is its package" "$(calls 'install puppet-agent$')" 1
puppet '"puppet_source": "openvox"'
ok "OpenVox where it is wanted" bootstrap
is "is its package" "$(calls 'install openvox-agent$')" 1
ok "from the vendor's source, whose key we have" grep -q '^Components: openvox8$' "$root/etc/apt/sources.list.d/stacktira-openvox.sources"
ok "for this system" grep -q '^Suites: debian12$' "$root/etc/apt/sources.list.d/stacktira-openvox.sources"
puppet '"puppet_source": "chef"'
fails_with 65 "a source that is none" bootstrap
fresh hyper
metadata "\"role\": \"hyper\", $words, \"puppet_source\": \"openvox\""
ok "with a mirror OpenVox comes from there" bootstrap
is "and from nowhere else" "$(sources)" sources.list.d/stacktira.sources

# Our list of keys is true, by gpg's word.
if command -v gpg >/dev/null; then
    is "the shipped key has the listed fingerprint" "$(sed -n 's/^\([0-9A-F]*\) .*/\1/p' "$repo/provision/keys/openvox.fingerprints")" \
        "$(gpg --homedir "$scratch" --show-keys --with-colons "$repo/provision/keys/openvox.asc" 2>/dev/null | awk -F: '/^fpr/ { print $10; exit }')"
    is "keys/fingerprints reads whole keyrings as gpg does" "$("$repo/provision/keys/fingerprints" /usr/share/keyrings/debian-archive-keyring.gpg | sort)" \
        "$(gpg --homedir "$scratch" --show-keys --with-colons /usr/share/keyrings/debian-archive-keyring.gpg 2>/dev/null | awk -F: '/^pub/ { primary = 1 } /^fpr/ && primary { print $10; primary = 0 }' | sort)"
fi
head -c 700 "$repo/provision/keys/openvox.asc" >"$scratch/cut.asc"
fails_with 1 "a key that is cut off is none" "$repo/provision/keys/fingerprints" "$scratch/cut.asc"
plan_done
