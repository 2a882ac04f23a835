# shellcheck shell=bash
# TAP for shell tests: `ok NAME COMMAND...`, `is NAME GOT WANTED`, `plan_done`.

tap_count=0
tap_failed=0

# Output of the last command that `ok` or `fails_with` ran.
tap_output=

tap_report() {
    tap_count=$((tap_count + 1))
    if [ "$1" = 0 ]; then
        printf 'ok %d - %s\n' "$tap_count" "$2"
    else
        tap_failed=$((tap_failed + 1))
        printf 'not ok %d - %s\n' "$tap_count" "$2"
        [ -z "${3:-}" ] || printf '%s\n' "$3" | sed 's/^/#   /'
    fi
}

ok() {
    local name=$1 code=0
    shift
    tap_output=$("$@" 2>&1) || code=$?
    tap_report "$code" "$name" "code $code: $tap_output"
}

# fails_with CODE NAME COMMAND...: it must end with exactly this code.
fails_with() {
    local wanted=$1 name=$2 code=0
    shift 2
    tap_output=$("$@" 2>&1) || code=$?
    if [ "$code" = "$wanted" ]; then tap_report 0 "$name"; else tap_report 1 "$name" "code $code, not $wanted: $tap_output"; fi
}

is() {
    if [ "$2" = "$3" ]; then tap_report 0 "$1"; else tap_report 1 "$1" "got:    $2
wanted: $3"; fi
}

# says NAME PATTERN: the last output holds it.
says() {
    if printf '%s\n' "$tap_output" | grep -E -- "$2" >/dev/null; then tap_report 0 "$1"; else tap_report 1 "$1" "no '$2' in: $tap_output"; fi
}

note() { printf '# %s\n' "$*"; }

skip_all() {
    printf '1..0 # SKIP %s\n' "$*"
    exit 0
}

plan_done() {
    printf '1..%d\n' "$tap_count"
    [ "$tap_failed" = 0 ]
}
