#!/usr/bin/env bash
# Make sure that an environment with SOSR-Det is there; quick when nothing changed.
#   tools/setup.sh [EXTRA ...]      extras of pyproject.toml (default: test): test, dev, mlflow, wandb, s3, gcs, azure, onnx,
#                                   peers, mmpretrain, zoo
# Uses the active virtual environment (or conda environment) if there is one, else makes .venv in the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/_environment.sh

extras=${*:-test}
spec=".[${extras// /,}]"

if [ -z "$SOSR_ENV" ]; then
  python=$(find_python) || exit 1
  echo "making .venv with $("$python" --version)"
  "$python" -m venv .venv || { rm -rf .venv; exit 1; }
  SOSR_ENV=$PWD/.venv
fi
export PATH="$SOSR_ENV/bin:$PATH"

# The stamp names what was installed; another extra or a changed pyproject.toml installs again.
stamp="$SOSR_ENV/.sosr-det-installed"
wanted="$PWD $spec $(cksum < pyproject.toml)"
if ! "$SOSR_ENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: the environment $SOSR_ENV has an older Python than 3.11; deactivate it or make a newer one." >&2
  exit 1
fi
if [ -x "$SOSR_ENV/bin/sosr-det" ] && [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
  echo "already installed in $SOSR_ENV"
else
  echo "installing SOSR-Det with its dependencies into $SOSR_ENV (several GB, minutes)"
  python -m pip install --quiet --disable-pip-version-check -e "$spec"
  # OpenMMLab asks for opencv-python, which needs desktop libraries that servers lack.
  if ! python -c 'import cv2' 2> /dev/null; then
    python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
    python -m pip install --quiet --disable-pip-version-check --no-deps opencv-python-headless
  fi
  grep -qsF "$PWD " "$stamp" || : > "$stamp"
  echo "$wanted" >> "$stamp"
fi
sosr-det doctor
