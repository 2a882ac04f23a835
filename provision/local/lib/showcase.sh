# shellcheck shell=bash
# Whether what the cluster deploys works: OpenStack, asked as its users ask.

# Whether Nova and Neutron have what a server needs: a hypervisor, and an agent for its addresses.
cluster_has_hypervisor() {
    machine_exec "$1" sh -c '. /root/openrc && openstack hypervisor list -f value -c State && openstack network agent list -f value -c Binary' 2>/dev/null |
        awk '$1 == "up" || $1 == "neutron-dhcp-agent" { found[$1] = 1 } END { exit !(found["up"] && found["neutron-dhcp-agent"]) }'
}

# Boots a server, until it answers: from the elected control node, which has images and DHCP servers.
cluster_server() {
    [ "$stage" = cloud ] || die 1 "the cluster '$prefix' has no cloud: it was made for the stage $stage; next: stk-local destroy, then STK_LOCAL_STAGE=cloud stk-local up"
    local control
    control=$(nodes_of_role control | sed -n 1p)
    need_running "$control"
    control=$(machine_exec "$control" consul-elect show control | cut -d' ' -f1)
    need_running "$control"
    machine_exec "$control" bash /vagrant/tests/simplenova.sh "$@"
}

# Asks from the hypervisor, through the proxy, for a token of the administrator. The password goes by stdin.
cluster_token() {
    local control
    control=$(nodes_of_role control | sed -n 1p)
    token_asker=$(nodes_of_role hyper | sed -n 1p)
    vip=$(address_of "$(nodes_of_role proxy | sed -n 1p)")
    local openrc=$state/$control/root/root/openrc user password project
    [ -e "$openrc" ] || return 1
    user=$(sed -n 's/^export OS_USERNAME=//p' "$openrc")
    password=$(sed -n 's/^export OS_PASSWORD=//p' "$openrc")
    project=$(sed -n 's/^export OS_PROJECT_NAME=//p' "$openrc")
    token_answer=$(
        printf '{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"%s","domain":{"id":"default"},"password":"%s"}}},"scope":{"project":{"name":"%s","domain":{"id":"default"}}}}}' "$user" "$password" "$project" |
            machine_exec "$token_asker" curl -s -m 20 -w '\n%{http_code}' -H 'Content-Type: application/json' --data @- "http://$vip:5000/v3/auth/tokens" 2>/dev/null |
            awk 'NR == 1 { body = $0 } END { if ($0 != "201") exit 1; match(body, /"expires_at": *"[^"]*"/); print "201," , substr(body, RSTART, RLENGTH) }'
    ) || return 1
}
