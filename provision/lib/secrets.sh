# shellcheck shell=sh
# What Consul needs of the cluster's secrets. Values go from file to file through pipes: never into a variable,
# an argument or a trace.

secrets_dir=$config_dir/secrets

# Whether this cluster has secrets. Without them Consul would trust whoever reaches it, so that has to be said.
with_secrets() {
    [ "$(meta consul_acl on)" != off ] || return 1
    if [ ! -s "$secrets_dir/cluster" ]; then
        # The local environment's network is closed, and its machines are gone with it.
        [ "$(meta provider unknown)" != local ] || return 1
        die 65 "no secrets in $secrets_dir: every node needs the same; next: provision/secrets.sh, or consul_acl off in the metadata"
    fi
    for secret in cluster control hyper mirror management; do
        [ ! -e "$secrets_dir/$secret" ] || tr -d '\n' <"$secrets_dir/$secret" | grep -Eqx '[A-Za-z0-9]{32,128}' ||
            die 65 "$secrets_dir/$secret is no secret: 32 to 128 letters and digits"
    done
}

# derived PURPOSE SECRET: 64 hex digits that nobody finds who has not the secret.
derived() { { printf 'stacktira %s\n' "$1"; tr -d '\n' <"$secrets_dir/$2"; } | sha256sum | cut -c1-64; }
# The same as a token of Consul, which is a UUID.
token() { derived "$@" | sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/' | tr -d '\n'; }

# The agent's own file: gossip key, access control, TLS. For the user consul, and nobody else.
agent_secrets() {
    # Until 1.11 the first token of a cluster had another name.
    first=initial_management
    "$consul" version 2>/dev/null | sed -n 's/^Consul v\([0-9]*\)[.]\([0-9]*\).*/\1 \2/p' | awk '{ exit !($1 == 1 && $2 < 11) }' && first=master
    printf '{\n  "encrypt": "'
    derived gossip cluster | cut -c1-32 | tr -d '\n' | base64 | tr -d '\n'
    printf '",\n  "acl": {\n    "enabled": true,\n    "default_policy": "deny",\n    "down_policy": "extend-cache",\n    "tokens": {\n      "agent": "'
    token agent cluster
    printf '",\n      "default": "'
    token default cluster
    if [ "$role" = infra ]; then
        printf '",\n      "%s": "' "$first"
        token management management
    fi
    printf '"\n    }\n  }'
    if [ -s "$secrets_dir/ca.pem" ]; then
        printf ',\n  "ca_file": "%s/ca.pem",\n  "verify_outgoing": true,\n  "verify_server_hostname": true' "$agent_tls"
        if [ "$role" = infra ]; then
            [ -s "$secrets_dir/server-key.pem" ] || die 65 "ca.pem is in $secrets_dir, and server-key.pem is not"
            printf ',\n  "verify_incoming_rpc": true,\n  "cert_file": "%s/server.pem",\n  "key_file": "%s/server-key.pem",\n  "auto_encrypt": { "allow_tls": true }' "$agent_tls" "$agent_tls"
        else
            printf ',\n  "auto_encrypt": { "tls": true }'
        fi
    fi
    printf '\n}\n'
}

# The tokens that people's and the tools' commands on this node use.
tools_tokens() {
    case $role in
        infra | control) token operator control | as_file 0640 "$config_dir/consul.token" ;;
        hyper) token hypervisor hyper | as_file 0640 "$config_dir/consul.token" ;;
        build) if [ -s "$secrets_dir/mirror" ]; then token mirror mirror; else token node cluster; fi | as_file 0640 "$config_dir/consul.token" ;;
        *) token node cluster | as_file 0640 "$config_dir/consul.token" ;;
    esac
    [ "$role" != infra ] || token management management | as_file 0600 "$config_dir/management.token"
    printf 'CONSUL_HTTP_TOKEN_FILE=/etc/stacktira/consul.token\n' | atomic_write 0644 "$config_dir/consul.env" || true
    printf 'PATH=/opt/stacktira/bin:$PATH\n[ ! -r /etc/stacktira/consul.token ] || export CONSUL_HTTP_TOKEN_FILE=/etc/stacktira/consul.token\n' |
        atomic_write 0644 "$root/etc/profile.d/stacktira.sh" || true
}

as_file() { atomic_write "$1" "$2" || true; }
