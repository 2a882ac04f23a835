#!/bin/bash
# What consul-watch-handler costs, and how fast it is, beside `consul watch` and against a real Consul.
#
#   tests/bench/watch.sh [ROUNDS]     (default 150; WATCH names the binary, default target/release/consul-watch-handler)
#
# - from a PUT to the start of the command: rounds that alternate between the two, medians, and their ratio
# - memory (PSS) of one process with 40 watches, and of one `consul watch`; at most 6 MiB is the goal
# - CPU ticks (10 ms each) of those 40 watches in a minute without a change
# - after how long the command is told that a snapshot was restored, with the default max_wait
#
# STACKTIRA_CONSUL names the Consul binary. PARTS chooses among: latency memory restore.
set -euo pipefail
LC_ALL=C

here=$(cd "$(dirname "$0")/../.." && pwd)
watch=${WATCH:-$here/target/release/consul-watch-handler}
consul=${STACKTIRA_CONSUL:-$(command -v consul || true)}
rounds=${1:-150}
parts=${PARTS:-latency memory restore}
[ -x "$watch" ] || { echo "$0: $watch is not built; hint: cargo build --release -p consul-watch-handler" >&2; exit 69; }
[ -x "$consul" ] || { echo "$0: no Consul; hint: STACKTIRA_CONSUL=\$(provision/local/consul-binary)" >&2; exit 69; }

scratch=$(mktemp -d)
started=()
# shellcheck disable=SC2329 # called by the trap
tidy() {
    [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$scratch"
}
trap tidy EXIT

# Ports that nobody uses, from the range that the system gives to nobody by itself.
base=$((21000 + $$ % 9000))
port=$base
export CONSUL_HTTP_ADDR=127.0.0.1:$port STACKTIRA_WATCH_DIR=$scratch/state
printf '{"ports": {"http": %d, "dns": -1, "grpc": -1, "serf_lan": %d, "serf_wan": %d, "server": %d}, "disable_update_check": true}\n' \
    $port $((base + 1)) $((base + 2)) $((base + 3)) >"$scratch/consul.json"
"$consul" agent -dev -bind 127.0.0.1 -config-file "$scratch/consul.json" >"$scratch/consul.log" 2>&1 &
started+=($!)

# request METHOD PATH [BODY]: prints the answer; without the time that starting a program takes.
request() {
    local body=${3:-} answer
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf '%s /v1/%s HTTP/1.1\r\nHost: c\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' "$1" "$2" ${#body} "$body" >&3
    answer=$(cat <&3)
    exec 3>&-
    printf '%s' "$answer"
}
for ((n = 0; ; n++)); do
    case $(request PUT kv/ready yes 2>/dev/null || true) in *200\ OK*true) break ;; esac
    [ $n -lt 200 ] || { echo "$0: Consul did not start: $scratch/consul.log" >&2; exit 69; }
    sleep 0.1
done

# start CONFIG LOG: a watcher in the background; its process id is $watcher.
start() {
    "$watch" watch "$1" >"$2" 2>"$scratch/watch.err" </dev/null &
    watcher=$!
    started+=("$watcher")
}
lines() { wc -l <"$1"; }
# await FILE NUMBER: until the file has that many lines.
await() {
    local n
    for ((n = 0; $(lines "$1") < $2; n++)); do
        [ $n -lt 6000 ] || { echo "$0: $1 has not got $2 lines in time" >&2; exit 70; }
        sleep 0.01
    done
}
pss() { awk '$1 == "Pss:" { print $2 }' "/proc/$1/smaps_rollup"; }
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
end() {
    kill "$1"
    wait "$1" 2>/dev/null || true
}

case " $parts " in *' latency '*)
    printf 'watches:\n- {name: k, type: key, key: bench/b, run: [/bin/date, "+%%s%%6N"]}\n' >"$scratch/latency.yaml"
    : >"$scratch/a"
    "$consul" watch -shell=false -type=key -key=bench/a /bin/date +%s%6N >"$scratch/a" 2>"$scratch/a.err" </dev/null &
    peer=$!
    started+=("$peer")
    start "$scratch/latency.yaml" "$scratch/b"
    await "$scratch/a" 1
    await "$scratch/b" 1
    : >"$scratch/a.us"
    : >"$scratch/b.us"
    for ((n = 0; n < rounds; n++)); do
        for side in a b; do
            known=$(lines "$scratch/$side")
            began=${EPOCHREALTIME/./}
            request PUT "kv/bench/$side" "$n $began" >/dev/null
            await "$scratch/$side" $((known + 1))
            echo $(($(tail -n 1 "$scratch/$side") - began)) >>"$scratch/$side.us"
            # Slower than the ten queries a second that a watch is held to.
            sleep 0.12
        done
    done
    a=$(median <"$scratch/a.us")
    b=$(median <"$scratch/b.us")
    echo "PUT to the start of the command, median of $rounds: consul watch $a us, consul-watch-handler $b us, ratio $((b * 100 / a)) %"
    peer_pss=$(pss "$peer")
    end "$peer"
    end "$watcher"
    ;;
esac

case " $parts " in *' memory '*)
    {
        echo 'watches:'
        for ((n = 0; n < 40; n++)); do echo "- {name: w$n, type: key, key: bench/w$n, run: [/bin/echo, x]}"; done
    } >"$scratch/forty.yaml"
    start "$scratch/forty.yaml" "$scratch/forty"
    await "$scratch/forty" 40
    # One round of changes, so that every part has been at work.
    for ((n = 0; n < 40; n++)); do request PUT "kv/bench/w$n" "$n" >/dev/null; done
    await "$scratch/forty" 80
    sleep 2
    before=$(ticks "$watcher")
    sleep 60
    after=$(ticks "$watcher")
    echo "40 watches: $(pss "$watcher") KiB PSS${peer_pss:+ (one consul watch: $peer_pss KiB)}, $(grep -c . <(ls "/proc/$watcher/task")) threads; $((after - before)) CPU ticks in 60 s without a change"
    end "$watcher"
    ;;
esac

case " $parts " in *' restore '*)
    # shellcheck disable=SC2016 # for the script that is written
    printf '#!/bin/sh\ngrep -o \047"Value":"[^"]*"\047 || echo none\n' >"$scratch/value"
    chmod +x "$scratch/value"
    printf 'watches:\n- {name: r, type: key, key: bench/r, run: [%s/value]}\n' "$scratch" >"$scratch/restore.yaml"
    request PUT kv/bench/r A >/dev/null
    "$consul" snapshot save "$scratch/snapshot" >/dev/null
    request PUT kv/bench/r B >/dev/null
    for ((n = 0; n < 20; n++)); do request PUT kv/bench/other "$n" >/dev/null; done
    start "$scratch/restore.yaml" "$scratch/seen"
    await "$scratch/seen" 1
    sleep 1
    began=${EPOCHREALTIME/./}
    "$consul" snapshot restore "$scratch/snapshot" >/dev/null
    await "$scratch/seen" 2
    ended=${EPOCHREALTIME/./}
    case $(tail -n 1 "$scratch/seen") in
        '"Value":"QQ=="') echo "a restored snapshot was told to the command after $(((ended - began) / 1000)) ms (max_wait 30s)" ;;
        *) echo "$0: the restored value was not seen: $(tail -n 1 "$scratch/seen")" >&2; exit 70 ;;
    esac
    end "$watcher"
    ;;
esac
