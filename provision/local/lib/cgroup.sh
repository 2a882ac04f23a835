# shellcheck shell=bash
# The cgroups of a node: its limits, and what is left of it.

# The cgroup directories of a node: one per hierarchy of version 1, or the one of version 2.
machine_cgroups() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        printf '/sys/fs/cgroup/%s/%s\n' "$prefix" "$1"
        return
    fi
    local hierarchy
    for hierarchy in /sys/fs/cgroup/*/; do
        [ ! -w "${hierarchy}cgroup.procs" ] || [ -L "${hierarchy%/}" ] || printf '%s%s/%s\n' "$hierarchy" "$prefix" "$1"
    done
}

# How much a node counts when there are not processors enough: what all others wait for is made on control nodes.
weight_of() { if [ "$(role_of "$1")" = control ]; then echo 4; else echo 1; fi; }

# cgroup_weight GROUP PARTS: a group that says nothing counts as much as one process.
cgroup_weight() {
    [ ! -e "$1/cpu.shares" ] || printf '%s\n' $(($2 * 1024)) >"$1/cpu.shares"
    [ ! -e "$1/cpu.weight" ] || printf '%s\n' $(($2 * 100)) >"$1/cpu.weight"
}

machine_make_cgroups() {
    local node=$1 group limit all=0
    for group in $(node_names); do all=$((all + $(weight_of "$group"))); done
    limit=$(($(memory_of "$node") * 1024 * 1024))
    for group in $(machine_cgroups "$node"); do
        mkdir -p "$group" || continue
        if [ -e "$group/cpuset.mems" ]; then
            local parent
            parent=$(dirname "$group")
            cat "$parent/../cpuset.cpus" >"$parent/cpuset.cpus"
            cat "$parent/../cpuset.mems" >"$parent/cpuset.mems"
            cat "$parent/cpuset.cpus" >"$group/cpuset.cpus"
            cat "$parent/cpuset.mems" >"$group/cpuset.mems"
        fi
        [ ! -e "$group/memory.limit_in_bytes" ] || printf '%s\n' "$limit" >"$group/memory.limit_in_bytes"
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            printf '+memory +cpu\n' >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
            printf '+memory +cpu\n' >"$(dirname "$group")/cgroup.subtree_control" 2>/dev/null || true
            [ ! -e "$group/memory.max" ] || printf '%s\n' "$limit" >"$group/memory.max"
        fi
        cgroup_weight "$group" "$(weight_of "$node")"
        cgroup_weight "$(dirname "$group")" "$all"
    done
}

# Moves the calling shell into the node's cgroups, so that the node's limits hold for what it starts.
machine_join_cgroups() {
    local group
    for group in $(machine_cgroups "$1"); do
        { printf '%s\n' "$BASHPID" >"$group/cgroup.procs"; } 2>/dev/null || true
    done
}

# Kills whatever is in the node's cgroups: a node whose record was lost must not live on.
machine_kill_leftovers() {
    local group pids attempt
    for attempt in $(seq 50); do
        pids=$(for group in $(machine_cgroups "$1"); do
            [ ! -d "$group" ] || find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null
        done | sort -u | grep -v '^0$' || true)
        [ -n "$pids" ] || return 0
        # shellcheck disable=SC2086 # a list of numbers
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    die 1 "$1: processes that do not die (attempt $attempt): $pids"
}
