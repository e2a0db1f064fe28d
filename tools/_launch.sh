# shellcheck shell=bash disable=SC2034
# Sourced by the stage scripts: one process, torchrun, or what Slurm started.
#   launch COMMAND CONFIG GPUS [ARGUMENTS ...]
# Multi-node variables are OpenMMLab's: NNODES, NODE_RANK, MASTER_ADDR, PORT. Run the script once on each node; GPUS
# is the number on that node. Exit code 75: stopped on request (SIGTERM, SIGUSR1) and saved; run again with --resume.

launch() {
  local command=$1 config=$2 gpus=$3
  shift 3
  if [ "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ]; then # inside srun, which started the processes
    exec sosr-det "$command" "$config" --launcher slurm "$@"
  elif [ "$gpus" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ]; then
    require_whole_number NNODES "${NNODES:-1}" NODE_RANK "${NODE_RANK:-0}" PORT "${PORT:-29500}"
    if [ "${NNODES:-1}" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
      echo "error: NNODES=$NNODES needs MASTER_ADDR, the address of the node with NODE_RANK=0" >&2
      exit 2
    fi
    # torchrun, which says at the end whose error it was; its arguments are torchrun's
    exec python -P -m sosr_det.engine.torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
      --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" --no-python \
      sosr-det "$command" "$config" --launcher pytorch "$@"
  fi
  exec sosr-det "$command" "$config" "$@"
}

require_whole_number() {
  while [ $# -gt 0 ]; do
    if ! [[ $2 =~ ^[0-9]+$ ]]; then
      echo "error: $1 must be a whole number, got '$2'" >&2
      exit 2
    fi
    shift 2
  done
}

# Says so when a machine's other GPUs would stay idle.
mention_idle_gpus() {
  local used=$1 visible=0
  if command -v nvidia-smi > /dev/null; then
    visible=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true)
  fi
  if [ "$visible" -gt "$used" ]; then
    echo "using $used of $visible GPUs; give the number after the config to use more" >&2
  fi
}

# Splits [CONFIG [GPUS]] off the arguments: sets CONFIG, GPUS and REST.
read_config_and_gpus() {
  CONFIG=$1
  shift
  GPUS=1
  if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    if ! [[ $1 =~ ^[0-9]+$ ]]; then # a lone number is the GPUs of the default config
      CONFIG=$1
      shift
    fi
    if [ $# -gt 0 ] && [[ $1 =~ ^[0-9]+$ ]]; then
      GPUS=$1
      shift
    fi
  fi
  if [ "$GPUS" -lt 1 ]; then
    echo "error: the number of processes must be at least 1" >&2
    exit 2
  fi
  REST=("$@")
}
