#!/usr/bin/env bash
# provision/puppet/bin/openstack: what a call is given and gives is what the client itself would see and say.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/tap.sh
. "$here/../lib/tap.sh"

/usr/bin/python3 -c 'import sys, os; os.pidfd_open; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
    skip_all "no Python 3.9 in /usr/bin"
scratch=$(mktemp -d)
export STACKTIRA_CLIENT_DIR=$scratch/run STACKTIRA_CLIENT=$scratch/real STACKTIRA_CLIENT_IDLE=3 PYTHONPATH=$scratch/lib
server_pid() { pgrep -f "^python3 $repo/provision/puppet/bin/openstack --serve" || true; }
finish() {
    rm -rf "$scratch"
    server_pid | while read -r pid; do kill "$pid" 2>/dev/null || true; done
}
trap finish EXIT
client=$repo/provision/puppet/bin/openstack

# A client that says what it sees. It notes when it is imported, and when a command of it is.
mkdir -p "$scratch/lib/openstackclient" "$scratch/here"
cat >"$scratch/lib/openstackclient/__init__.py" <<'END'
END
cat >"$scratch/lib/openstackclient/shell.py" <<END
import os, sys, time
open("$scratch/imported", "a").write("shell\n")
def main(argv):
    if argv[0] == "see":
        print("arguments", argv[1:], sys.argv)
        print("environment", os.environ.get("OS_PASSWORD"), "directory", os.getcwd(), "mask", oct(os.umask(0o077)))
        print("input", sys.stdin.read())
        print("complaint", file=sys.stderr)
    elif argv[0] == "command":
        import openstackclient.command
    elif argv[0] == "exit":
        sys.exit(int(argv[1]))
    elif argv[0] == "say":
        sys.exit("words")
    elif argv[0] == "raise":
        raise RuntimeError("broken")
    elif argv[0] == "sleep":
        open("$scratch/sleeper", "w").write(str(os.getpid()))
        time.sleep(60)
    elif argv[0] == "crash":
        os.kill(os.getpid(), 11)
    return 0
END
printf 'open("%s/imported", "a").write("command\\n")\n' "$scratch" >"$scratch/lib/openstackclient/command.py"
printf '#!/bin/sh\necho "the real one: $*"\nexit 9\n' >"$scratch/real"
chmod 755 "$scratch/real"

see() { (cd "$scratch/here" && umask 027 && printf 'words in' | OS_PASSWORD=secret "$client" see 'two words' --flag ''); }
ok "a call" see
says "has its arguments" "arguments \['two words', '--flag', ''\] \['openstack', 'see', 'two words', '--flag', ''\]"
says "its environment, directory and mask" "environment secret directory $scratch/here mask 0o27"
says "its input" 'input words in'
says "and its complaints" '^complaint$'
is "the streams are kept apart" "$("$client" see </dev/null 2>/dev/null | grep -c complaint || true)" 0
fails_with 3 "its exit code is the call's" "$client" exit 3
fails_with 1 "an exit with words is 1" "$client" say
says "with the words" '^words$'
fails_with 1 "an exception is 1" "$client" raise
says "and said" "RuntimeError\('broken'\)"
fails_with 139 "a call that crashes" "$client" crash
ok "and the next one is answered" "$client" exit 0
ok "a command" "$client" command
ok "the command again" "$client" command
ok "and again" "$client" command
is "the client was imported once" "$(grep -c shell "$scratch/imported")" 1
# Once by the call that needed it first, once for all that come after.
is "and a command twice in three calls" "$(grep -c command "$scratch/imported")" 2
is "what one call sets no other sees" "$("$client" see </dev/null 2>/dev/null | grep -c secret || true)" 0

many() { for i in $(seq 30); do ("$client" exit "$i" || echo "$i $?") & done; wait; }
is "thirty calls at once each get their own answer" "$(many | awk '$1 == $2' | wc -l)" 30

"$client" sleep &
caller=$!
for _ in $(seq 50); do [ ! -s "$scratch/sleeper" ] || break; sleep 0.1; done
kill -KILL $caller
wait $caller 2>/dev/null || true
gone() { for _ in $(seq 50); do [ -e "/proc/$(cat "$scratch/sleeper")" ] || return 0; sleep 0.1; done; return 1; }
ok "a call whose caller is killed ends" gone

is "nobody else can reach it" "$(stat -c '%a' "$scratch/run" "$scratch/run/socket" | tr '\n' ' ')" '700 600 '
kill -KILL "$(server_pid)"
ok "a server that was killed has a successor" "$client" exit 0
ended() { for _ in $(seq 100); do [ -n "$(server_pid)" ] || return 0; sleep 0.1; done; return 1; }
ok "it ends when nobody has called for a while" ended
is "and leaves no door" "$(find "$scratch/run" -name socket)" ""

chmod 755 "$scratch/run"
fails_with 9 "in a directory that others can enter the real client is run" "$client" a b
says "with the arguments" '^the real one: a b$'
chmod 700 "$scratch/run"
rm -r "$scratch/lib/openstackclient"
fails_with 9 "without the client's modules the real client is run" "$client" c

plan_done
