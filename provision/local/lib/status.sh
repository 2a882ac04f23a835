# shellcheck shell=bash
# What the nodes say of themselves: status, logs, and which one did not get there.

cluster_node_state() {
    local node=$1
    if [ ! -d "$state/$node" ]; then echo absent
    elif ! machine_pid "$node" >/dev/null; then echo stopped
    elif ! has_file "$node" /var/lib/stacktira/bootstrapped; then echo bootstrapping
    elif [ "$(cluster_last "$node" state)" = running ]; then echo running
    elif cluster_converged "$node"; then echo converged
    elif [ -n "$(cluster_last "$node" exit_code)" ]; then echo failed
    else echo waiting; fi
}

cluster_status() {
    local json=no node pid code at current
    case ${1:-} in
        '') ;;
        --json) json=yes ;;
        *) usage_error "status: unknown option $1" ;;
    esac
    [ $json = yes ] || printf '%-10s %-8s %-16s %-8s %-14s %-5s %s\n' NODE ROLE ADDRESS PID STATE CODE 'LAST RUN'
    for node in $(node_names); do
        pid=$(machine_pid "$node") || pid=null
        current=$(cluster_node_state "$node")
        code=$(cluster_last "$node" exit_code)
        at=$(cluster_last "$node" started)
        if [ $json = yes ]; then
            [ -z "$at" ] || at="\"$at\""
            printf '{"type":"node","v":1,"node":"%s","role":"%s","address":"%s","pid":%s,"state":"%s","exit_code":%s,"started":%s}\n' \
                "$node" "$(role_of "$node")" "$(address_of "$node")" "$pid" "$current" "${code:-null}" "${at:-null}"
        else
            printf '%-10s %-8s %-16s %-8s %-14s %-5s %s\n' "$node" "$(role_of "$node")" "$(address_of "$node")" "${pid#null}" "$current" "${code:--}" "${at:--}"
        fi
    done
}

# Says which node stopped at which step, and where to read on.
cluster_failed() {
    local node=$1 step
    step=$(cat "$state/$node/root/var/lib/stacktira/bootstrap.step" 2>/dev/null || echo 'before the first step')
    say "error: $node: $2"
    say "  step: ${step}; last run: code $(cluster_last "$node" exit_code), reason $(cluster_last "$node" reason)"
    say "  log: stk-local logs $node"
    cluster_logs "$node" 2>/dev/null | tail -n 8 >&2 || true
    exit 1
}

# What a node says of itself: its journal, its history of runs, and the output of the newest one.
cluster_logs() {
    each_known "$1"
    [ -d "$state/$1" ] || die 1 "$1 was never up; next: stk-local up $1"
    local root=$state/$1/root units=(--unit=stacktira-bootstrap --unit=stacktira-watch --unit=stacktira-converge --unit=stacktira-mirror)
    journalctl --quiet --no-pager --output=short-iso --directory="$root/var/log/journal" "${units[@]}" || true
    printf '== runs: start, code, duration, reason\n'
    tail -n 20 "$root/var/lib/stacktira/runs" 2>/dev/null || true
    if machine_pid "$1" >/dev/null; then
        printf '== output of the newest run\n'
        machine_exec "$1" ts --queue converge --output 2>&1 | tail -n 200
    else
        printf '== console\n'
        tail -n 50 "$state/$1/console.log"
    fi
}
