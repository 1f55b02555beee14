#!/bin/sh
# The services of the platform: bash platform/run.sh SERVICE|GROUP|all up|down|restart|status|logs [--volumes]
# `bash platform/run.sh --help` says the rest, and lesson 11 what each service does.
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/mlops-course ] || { echo "There is no .venv here yet: \`make setup\` makes it." >&2; exit 1; }
exec .venv/bin/mlops-course platform "$@"
