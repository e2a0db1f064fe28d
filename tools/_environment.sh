# shellcheck shell=bash
# Sourced by the other tools: finds the Python environment, without making one.
# Sets SOSR_ENV to its folder, or to nothing when there is none.
_checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -n "${VIRTUAL_ENV:-}" ]; then
  SOSR_ENV=$VIRTUAL_ENV
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
  SOSR_ENV=$CONDA_PREFIX
elif [ -x "$_checkout/.venv/bin/pip" ]; then
  SOSR_ENV=$_checkout/.venv
else
  SOSR_ENV=
fi

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: SOSR-Det needs Python 3.11 or newer with the venv module (Debian: apt-get install python3-venv)." >&2
  echo "Set PYTHON to such an interpreter, or activate an environment that has one." >&2
  return 1
}

# Puts the environment first on PATH, installing it when needed.
require_environment() {
  if [ -z "$SOSR_ENV" ] || [ ! -x "$SOSR_ENV/bin/sosr-det" ] || [ -n "${1:-}" ]; then
    bash "$_checkout/tools/setup.sh" ${1:+"$1"}
    source "$_checkout/tools/_environment.sh"
  fi
  export PATH="$SOSR_ENV/bin:$PATH"
}
