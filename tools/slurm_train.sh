#!/usr/bin/env bash
# Train on a Slurm cluster; arguments and variables are those of OpenMMLab's slurm_train.sh.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [ARGUMENTS of sosr-det train ...]
# GPUS (8): processes, one per GPU.   GPUS_PER_NODE (8, at most GPUS).   CPUS_PER_TASK (5): for data loading.
# SRUN_ARGS: more arguments of srun, such as "--account=vision --time=24:00:00".
# Waits for the job and returns its exit code; 75: stopped on request and saved. For jobs that put themselves into the
# queue again: tools/slurm_requeue.sbatch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/_environment.sh"
source "$here/_launch.sh"
if [ $# -lt 3 ] || [[ $1 == -* ]] || [[ $2 == -* ]] || [[ $3 == -* ]]; then
  echo "usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [ARGUMENTS ...]" >&2
  exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
work_dir=()
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
  work_dir=(--work-dir "$1")
  shift
fi

gpus=${GPUS:-8}
require_whole_number GPUS "$gpus" GPUS_PER_NODE "${GPUS_PER_NODE:-8}" CPUS_PER_TASK "${CPUS_PER_TASK:-5}"
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
if [ "$gpus" -lt 1 ] || [ "$gpus_per_node" -lt 1 ]; then
  echo "error: GPUS and GPUS_PER_NODE must be at least 1" >&2
  exit 2
fi
if [ $((gpus % gpus_per_node)) -ne 0 ]; then # srun would share the processes out unevenly
  echo "error: GPUS=$gpus is not a multiple of GPUS_PER_NODE=$gpus_per_node" >&2
  exit 2
fi
if ! command -v srun > /dev/null; then
  echo "error: there is no srun here. Run this on a node of a Slurm cluster, or use tools/pretrain.sh CONFIG GPUS." >&2
  exit 2
fi
require_environment

# One failed process ends the others. SRUN_ARGS is split at spaces, as in OpenMMLab's script.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job_name" --gres=gpu:"$gpus_per_node" --ntasks="$gpus" \
  --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  sosr-det train "$config" ${work_dir[@]+"${work_dir[@]}"} --launcher slurm "$@"
