#!/usr/bin/env bash
# Train a detector on data/VOCdevkit (or $SOSR_DATA, or --data-root) from a published backbone (--backbone URI).
#   tools/train_det.sh [CONFIG [GPUS]] [ARGUMENTS of sosr-det train ...] [--cfg-options KEY=VALUE ...]
# Without a config: detection/retinanet_r50-sosr-pre_fpn_1x_voc0712
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/_environment.sh"
source "$here/_launch.sh"
require_environment
read_config_and_gpus detection/retinanet_r50-sosr-pre_fpn_1x_voc0712 "$@"
mention_idle_gpus "$GPUS"
launch train "$CONFIG" "$GPUS" ${REST[@]+"${REST[@]}"}
