#!/usr/bin/env bash
# The templates: create, grow, shrink, fail. See check.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${STACKTIRA_HEAT_DIR:-$here/../../target/heat}
export PYTHONDONTWRITEBYTECODE=1
[ -e "$work/venv/complete" ] || { echo "1..0 # SKIP Heat is not here; next: tests/heat/run"; exit 0; }
exec timeout 1200 "$work/venv/bin/python" "$here/check.py" --cloud-init "$work/cloud-init"
