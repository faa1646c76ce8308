#!/usr/bin/env bash
# Everything that must pass before a change lands: environment, linter, types, tests. Arguments go to pytest: deploy/test.sh tests/unit -k config
# What takes minutes on its own (a cluster of several nodes) runs when it is asked for: deploy/test.sh -m long
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash deploy/setup.sh
export PATH="$PWD/.venv/bin:$PATH"

ruff check .
mypy rlvid
exec pytest "$@"
