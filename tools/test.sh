#!/usr/bin/env bash
# Run the tests on several cores, installing first when needed.
#   tools/test.sh [PYTEST ARGUMENTS ...]      SOSR_TEST_SLOW=1 adds the slow ones; `-n 0` runs all in one process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/_environment.sh
require_environment test
python -m ruff check --quiet .
if ! python -c 'import xdist' 2> /dev/null; then
  echo "error: the environment $SOSR_ENV lacks pytest-xdist. Run: python -m pip install -e '.[test]'" >&2
  exit 1
fi

# One process per core that this one may use, at most four: each holds torch and MMDetection, 1 to 2 GB. As they are
# one per core, torch gets one thread in each. worksteal deals whole stretches of the suite out, so that fixtures are
# seldom made twice, and takes from the slower process at the end.
workers=$(python -c '
import os
print(min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "${SOSR_TEST_SLOW:-0}" != 1 ]; then
  set -- -m "not slow" "$@"
fi
exec python -m pytest -n "$workers" --dist worksteal "$@"
