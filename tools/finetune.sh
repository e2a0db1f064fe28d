#!/usr/bin/env bash
# Fine-tune a published backbone on data/CUB_200_2011 (or $SOSR_DATA, or --data-root) and publish the result.
#   tools/finetune.sh [CONFIG [GPUS]] [ARGUMENTS of sosr-det train ...] [--cfg-options KEY=VALUE ...]
# Without a config: finetune/resnet50-sosr-pre_sosr_1xb32-95e_cub200
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/_environment.sh"
source "$here/_launch.sh"
require_environment
read_config_and_gpus finetune/resnet50-sosr-pre_sosr_1xb32-95e_cub200 "$@"
mention_idle_gpus "$GPUS"
launch train "$CONFIG" "$GPUS" ${REST[@]+"${REST[@]}"}
