#!/usr/bin/env bash
# Run the tests, installing first when needed.
#   tools/test.sh [PYTEST ARGUMENTS ...]      SOSR_TEST_SLOW=1 adds the slow ones
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/_environment.sh
require_environment test
export PYTHONDONTWRITEBYTECODE=1
python -m ruff check --quiet .
if [ "${SOSR_TEST_SLOW:-0}" = 1 ]; then
  exec python -m pytest "$@"
fi
exec python -m pytest -m "not slow" "$@"
