#!/bin/sh
# The cluster's secrets: made once by whoever makes the machines, and laid on each machine as files for root.
# Everything that Consul needs is derived from them on the node, so that nothing has to be handed out later.
set -eu

usage() {
    cat <<'END'
Usage: secrets.sh make DIR [--tls CONSUL [DATACENTER]]
       secrets.sh install DIR ROLE TARGET

  make       makes what is missing in DIR: the files cluster, control, hyper, mirror and management, 40 random letters
             and digits each; with --tls also a certificate authority and a certificate for Consul's servers, by the Consul
             program CONSUL
  install    copies what a node of ROLE may have from DIR to TARGET, which is /etc/stacktira/secrets on the node

  cluster       every node     gossip key, and the tokens of the agent, of the tools, and of who has none
  control       control, infra the token that may also write below hiera/, and everything below stacktira/secret/
  hyper         hyper, infra   the token that may read the services' passwords that a hypervisor needs
  mirror        build, infra   the token that may move the pointers of the mirror
  management    infra          the token that may do everything
  ca.pem        every node     server.pem, server-key.pem: infra; ca-key.pem stays in DIR, and belongs on no node

Exit status: 0 done   1 a secret cannot be made or is not in DIR   2 usage

Examples:
  secrets.sh make site && secrets.sh install site infra /mnt/infra1/etc/stacktira/secrets
  secrets.sh make site --tls /usr/bin/consul dc1
END
}

die() {
    code=$1
    shift
    printf 'secrets: error: %s\n' "$*" >&2
    exit "$code"
}

# whole FILE: stdin becomes the file, or nothing does.
whole() {
    temporary=$(mktemp "$1.XXXXXX")
    cat >"$temporary"
    [ -s "$temporary" ] || { rm -f "$temporary"; die 1 "nothing to write to $1"; }
    chmod "${2:-0600}" "$temporary"
    mv -f "$temporary" "$1"
}

make_secrets() {
    umask 077
    mkdir -p "$1"
    for name in cluster control hyper mirror management; do
        [ -s "$1/$name" ] || head -c 4096 /dev/urandom | LC_ALL=C tr -dc 'A-Za-z0-9' | head -c 40 | whole "$1/$name"
    done
}

make_tls() {
    directory=$(readlink -f "$1")
    [ ! -s "$directory/server-key.pem" ] || return 0
    work=$(mktemp -d "$directory/tls.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (
        cd "$work"
        if [ -s "$directory/ca-key.pem" ]; then
            cp "$directory/ca.pem" consul-agent-ca.pem
            cp "$directory/ca-key.pem" consul-agent-ca-key.pem
        else
            "$2" tls ca create -days=3650 >/dev/null
        fi
        "$2" tls cert create -server -dc "$3" -days=1825 >/dev/null
    ) || die 1 "$2 does not make certificates; it must be Consul 1.5 or newer"
    whole "$directory/ca-key.pem" <"$work/consul-agent-ca-key.pem"
    whole "$directory/ca.pem" 0644 <"$work/consul-agent-ca.pem"
    whole "$directory/server.pem" 0644 <"$work/$3-server-consul-0.pem"
    whole "$directory/server-key.pem" <"$work/$3-server-consul-0-key.pem"
}

install_secrets() {
    umask 077
    names=cluster
    optional=ca.pem
    case $2 in
        infra) names="cluster control hyper mirror management" optional="ca.pem server.pem server-key.pem" ;;
        control) names="cluster control" ;;
        hyper) names="cluster hyper" ;;
        build) names="cluster mirror" ;;
    esac
    mkdir -p "$3"
    for name in $names; do
        [ -s "$1/$name" ] || die 1 "$1/$name is not there; next: secrets.sh make $1"
        whole "$3/$name" <"$1/$name"
    done
    for name in $optional; do [ ! -s "$1/$name" ] || whole "$3/$name" <"$1/$name"; done
}

case ${1:-} in
    --help) usage ;;
    make)
        case $#:${3:-} in
            2:) make_secrets "$2" ;;
            4:--tls | 5:--tls)
                [ -x "$4" ] || die 2 "--tls needs a Consul program: '$4'"
                make_secrets "$2"
                make_tls "$2" "$4" "${5:-dc1}"
                ;;
            *) usage >&2; exit 2 ;;
        esac
        ;;
    install)
        [ $# -eq 4 ] || { usage >&2; exit 2; }
        install_secrets "$2" "$3" "$4"
        ;;
    *) usage >&2; exit 2 ;;
esac
