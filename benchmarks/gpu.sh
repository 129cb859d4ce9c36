#!/usr/bin/env bash
# Everything that one GPU can tell in 25 minutes; see README.md.
#   benchmarks/gpu.sh MACHINE [WHEELS] [gpu.py's options]
# WHEELS is a folder of wheels for what the machine lacks: it needs torch and no network.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
machine=${1:?give a name for the kind of machine, such as h200}
shift
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -d "${1:-}" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$1"/*.whl
    shift
fi
PYTHONPATH=$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 "$python" benchmarks/gpu.py --machine "$machine" "$@"
