#!/usr/bin/env bash
# Evaluate a detector: per-class AP and VOC2007 mAP (11-point and area).
#   tools/test_det.sh CONFIG CHECKPOINT|RUN_FOLDER [GPUS] [ARGUMENTS of sosr-det test ...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/_environment.sh"
source "$here/_launch.sh"
if [ $# -lt 2 ] || [[ $1 == -* ]] || [[ $2 == -* ]]; then
  echo "usage: tools/test_det.sh CONFIG CHECKPOINT|RUN_FOLDER [GPUS] [ARGUMENTS ...]" >&2
  exit 2
fi
require_environment
config=$1
checkpoint=$2
shift 2
read_config_and_gpus "$config" "$config" "$@"
launch test "$CONFIG" "$GPUS" "$checkpoint" ${REST[@]+"${REST[@]}"}
