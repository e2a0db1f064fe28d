#!/usr/bin/env bash
# Pretrain a backbone on data/imagenet (or $SOSR_DATA, or --data-root) and publish its best epoch.
#   tools/pretrain.sh [CONFIG [GPUS]] [ARGUMENTS of sosr-det train ...] [--cfg-options KEY=VALUE ...]
# Without a config: pretrain/resnet50_sosr_8xb32-90e_in1k
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/_environment.sh"
source "$here/_launch.sh"
require_environment
read_config_and_gpus pretrain/resnet50_sosr_8xb32-90e_in1k "$@"
mention_idle_gpus "$GPUS"
launch train "$CONFIG" "$GPUS" ${REST[@]+"${REST[@]}"}
