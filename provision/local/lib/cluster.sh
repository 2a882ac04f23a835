# shellcheck shell=bash
# All nodes together: up, kick, destroy.

cluster_prepare() {
    local box pool role
    mkdir -p "$state"
    chmod 700 "$state"
    box=$(box_ensure)
    pool=$(pool_ensure "$box")
    tools_unpack
    modules_ensure "$pool" >"$state/git.new"
    mv "$state/git.new" "$state/git"
    pool_assemble "$pool"
    [ "$stage" != cloud ] || image_ensure "$pool" >"$state/guest"
    if [ ! -e "$state/site.asc" ]; then
        rm -f "$state/site.sec.asc"
        "$tools/mirror-sync" keygen --out "$state/site.sec.asc" --public "$state/site.asc"
    fi
    "$repo/provision/secrets.sh" make "$state/secrets"
    # What nodes were made with they keep. Layers that are not there yet are made side by side.
    local jobs=() job
    for role in $(node_list | awk '{ print $2 }' | sort -u); do
        [ ! -s "$state/$role.lower" ] || continue
        (
            layer=$(layer_ensure "$role" "$box" "$pool")
            printf '%s%s\n' "${layer:+$layer:}" "$box" >"$state/$role.lower.new"
            mv "$state/$role.lower.new" "$state/$role.lower"
        ) &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || exit 1; done
}

# The host uses the same binaries that the nodes install.
tools_unpack() {
    local deb
    deb=$(tools_package)
    tools=$state/tools/opt/stacktira/bin
    if ! cmp -s "$deb" "$state/tools.deb"; then
        rm -rf "$state/tools"
        dpkg-deb -x "$deb" "$state/tools"
        cp "$deb" "$state/tools.deb"
    fi
}

# Held on descriptor 9 until the machines run.
cluster_lock() {
    mkdir -p "$cache"
    exec 9>"$base/$prefix.lock"
    flock -n 9 || die 75 "another command is bringing the cluster '$prefix' up"
}

cluster_up() {
    local wait=yes server=no nodes node
    case ${1:-} in
        --no-wait) wait=no; shift ;;
        --server) server=yes; shift ;;
    esac
    case ${1:-} in -*) usage_error "up: unknown option $1" ;; esac
    each_known "$@"
    need_root
    doctor_quietly
    nodes=${*:-$(node_names | paste -sd' ')}
    cluster_lock
    if [ -e "$state/stage" ] && [ "$(cat "$state/stage")" != "$stage" ]; then
        die 1 "the cluster '$prefix' was made for the stage $(cat "$state/stage"), not $stage; next: stk-local destroy, or STK_LOCAL_STAGE=$(cat "$state/stage")"
    fi
    cluster_prepare
    printf '%s\n' "$stage" >"$state/stage"
    network_switch
    for node in $nodes; do
        network_node "$node"
        machine_mount "$node" "$(cat "$state/$(role_of "$node").lower")"
        machine_seed "$node"
    done
    local jobs=()
    for node in $nodes; do
        machine_boot "$node" &
        jobs+=($!)
    done
    local job
    for job in "${jobs[@]}"; do wait "$job" || exit 1; done
    # shellcheck disable=SC2086 # a list of names
    lap "booted: $(printf '%s ' $nodes)"
    exec 9>&-
    [ "$wait" = no ] || cluster_wait "$nodes"
    if [ "$server" = yes ] && [ "$stage" = cloud ]; then
        cluster_server
        lap "up: a server answers"
    fi
}

# Waits for a condition, calling it every half second.
wait_until() {
    local seconds=$1 end
    shift
    end=$((SECONDS + seconds))
    until "$@"; do
        [ $SECONDS -lt "$end" ] || return 1
        sleep 0.5
    done
}

has_file() { [ -e "$state/$1/root$2" ]; }

cluster_has_leader() {
    machine_exec "$1" curl -s -m 2 http://127.0.0.1:8500/v1/status/leader 2>/dev/null | grep :8300 >/dev/null
}

# A node has converged when its last run ended well.
cluster_converged() {
    case $(cluster_last "$1" exit_code) in
        0 | 2) return 0 ;;
        *) return 1 ;;
    esac
}

# A field of what the node wrote about its last run.
cluster_last() {
    [ ! -e "$state/$1/root/var/lib/stacktira/run.json" ] ||
        sed -n "s/.*\"$2\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$state/$1/root/var/lib/stacktira/run.json" | sed -n 1p
}

cluster_wait() {
    local nodes=$1 node role asked control
    for node in $nodes; do
        [ "$(role_of "$node")" != build ] || {
            wait_until 180 has_file "$node" /var/lib/stacktira/mirror.ready || cluster_failed "$node" "the mirror is not served after 180 s"
            lap "mirror served by $node: $(machine_exec "$node" sed -n 's/.*"snapshot": *"\([0-9a-f]\{12\}\).*/snapshot \1/p' /var/lib/stacktira/mirror/pub/channel/stable.json)"
        }
    done
    for node in $nodes; do
        wait_until 300 has_file "$node" /var/lib/stacktira/bootstrapped || cluster_failed "$node" "the bootstrap is not done after 300 s"
    done
    lap "bootstrapped: every node installed from the mirror and joined Consul"
    asked=${nodes%% *}
    wait_until 120 cluster_has_leader "$asked" || cluster_failed "$asked" "Consul has no leader after 120 s"
    lap "Consul has a leader"
    local waiting=$nodes left end=$((SECONDS + 1200))
    while [ -n "$waiting" ]; do
        left=
        for node in $waiting; do
            if cluster_converged "$node"; then
                lap "$node converged (run code $(cluster_last "$node" exit_code), $(cluster_last "$node" duration) s)"
            else
                left="$left $node"
            fi
        done
        waiting=${left# }
        [ -z "$waiting" ] && break
        [ $SECONDS -lt $end ] || cluster_failed "${waiting%% *}" "no run has succeeded after 1200 s (waiting for: $waiting)"
        sleep 0.5
    done
    [ "$stage" != cluster ] || { lap "up: $nodes"; return 0; }
    for role in control proxy hyper; do
        node=$(nodes_of_role "$role" | sed -n 1p)
        case " $nodes " in *" $node "*) ;; *) lap "up: $nodes"; return 0 ;; esac
    done
    wait_until 180 cluster_token || cluster_failed "$(nodes_of_role control | sed -n 1p)" "no token was issued through the proxy after 180 s"
    lap "up: Keystone issued a token through $vip:5000, asked from $token_asker: $token_answer"
    [ "$stage" = cloud ] || return 0
    control=$(nodes_of_role control | sed -n 1p)
    wait_until 300 cluster_has_hypervisor "$control" || cluster_failed "$token_asker" "no hypervisor and network agents are up after 300 s"
    lap "up: $token_asker is a hypervisor; next: stk-local server"
}

cluster_kick() {
    local wait=() nodes node worst=0 code
    [ "${1:-}" != --wait ] || { wait=(--foreground); shift; }
    case ${1:-} in -*) usage_error "kick: unknown option $1" ;; esac
    each_known "$@"
    nodes=${*:-$(for node in $(node_names); do ! machine_pid "$node" >/dev/null || echo "$node"; done)}
    [ -n "$nodes" ] || die 1 "no node is running; next: stk-local up"
    local jobs=()
    for node in $nodes; do
        need_running "$node"
        machine_exec "$node" /opt/stacktira/provision/kick "${wait[@]}" --reason "stk-local kick" >/dev/null &
        jobs+=("$node:$!")
    done
    for node in "${jobs[@]}"; do
        code=0
        wait "${node##*:}" || code=$?
        [ ${#wait[@]} -eq 0 ] || say "${node%%:*}: run ended with $code"
        [ "$code" -le "$worst" ] || worst=$code
    done
    return "$worst"
}

cluster_destroy() {
    local node
    each_known "$@"
    need_root
    if [ $# -gt 0 ]; then
        for node; do machine_remove "$node"; done
        return
    fi
    for node in $(node_names); do
        [ ! -d "$state/$node" ] || machine_remove "$node" &
    done
    wait
    for node in $(node_names); do
        [ ! -d "$state/$node" ] || die 1 "$node could not be removed"
        network_remove "$node"
    done
    network_remove_switch
    local group
    for group in $(machine_cgroups .); do
        [ ! -d "${group%/.}" ] || find "${group%/.}" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
    rm -rf --one-file-system "${state:?}" "$base/$prefix.lock"
    lap "destroyed: $prefix"
}
