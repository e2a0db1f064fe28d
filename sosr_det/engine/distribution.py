"""Several processes, one run: how they find each other, synchronised batch norm, accumulated gradients.

Data parallel only (DistributedDataParallel). A ResNet-50 is 26 million parameters: sharding them (FSDP) would save
200 MB of gradients and momentum per device and cost two more collectives per step; docs/distributed.md has the sums.
"""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sosr_det.errors import ConfigError

# torch waits 30 minutes for a process that does not answer (10 with NCCL). Nothing here takes rank 0 ten minutes alone.
TIMEOUT_SECONDS = 600
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000  # below the range that Linux gives to outgoing connections


def init_distributed(cfg: Any, launcher: str) -> None:
    """Start the process group before the config is resolved, so that all ranks resolve the same thing.

    ``env_cfg.dist_cfg.timeout`` (seconds, default 600) is how long a process waits for the others in one collective
    operation; after that it ends with an error. mmengine selects a CUDA device while it starts a group, whatever the
    backend, and wraps the model for one; without CUDA both are done here for CPU.

    Raises:
        ConfigError: an unusable timeout; a launcher whose variables are not set.
    """
    import torch
    from mmengine.dist import init_dist, is_distributed

    if launcher == "none":
        return
    # mmengine would set both to 1, with a warning from every process.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    # mmengine's wrapper takes its old name; RankZeroBuffersHook is what makes the buffers agree.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    on_cpu = launcher in ("pytorch", "slurm") and not torch.cuda.is_available()
    if on_cpu:
        cfg.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
            "find_unused_parameters": bool(cfg.get("find_unused_parameters", False)),
            **(cfg.get("model_wrapper_cfg") or {}),
        }
    if is_distributed():
        return
    settings = dict((cfg.get("env_cfg") or {}).get("dist_cfg") or {"backend": "nccl"})
    settings["timeout"] = timeout_seconds(settings)
    if launcher == "slurm":
        set_slurm_variables(settings.pop("port", None))
        if torch.cuda.is_available():  # --gpus-per-task hides the other tasks' devices
            os.environ["SLURM_LOCALID"] = str(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        if on_cpu:
            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=settings["timeout"]))
        else:
            init_dist(launcher, **settings)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"--launcher {launcher} could not start the process group: {error}. The tools/*.sh scripts set what it "
            "needs."
        ) from error


def timeout_seconds(dist_cfg: Mapping[str, Any]) -> float:
    """``timeout`` of a config's ``env_cfg.dist_cfg``, or the default; positive seconds.

    Raises:
        ConfigError: not a positive number.
    """
    value = dist_cfg.get("timeout", TIMEOUT_SECONDS)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigError(
            f"env_cfg.dist_cfg.timeout must be a positive number of seconds, got {value!r}. It is how long a process "
            "waits for the others before it gives up."
        )
    return value


def set_slurm_variables(port: int | None = None) -> None:
    """torch's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) from srun's.

    Two jobs may share a node, so the port comes from the job's number unless ``port``, ``$MASTER_PORT`` or ``$PORT``
    says otherwise.

    Raises:
        ConfigError: not inside a step that srun started.
    """
    environment = os.environ
    missing = [
        name for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID") if not environment.get(name)
    ]
    if missing:
        raise ConfigError(
            f"--launcher slurm reads {', '.join(missing)}, which srun sets. Start the command with srun, or use "
            "tools/slurm_train.sh."
        )
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    if port is None:
        port = int(environment.get("MASTER_PORT") or environment.get("PORT") or _job_port(environment))
    environment["MASTER_PORT"] = str(port)
    if not environment.get("MASTER_ADDR"):
        environment["MASTER_ADDR"] = _first_host(environment)


def _job_port(environment: Mapping[str, str]) -> int:
    return _FIRST_PORT + int(environment.get("SLURM_JOB_ID") or 0) % _NUM_PORTS


def _first_host(environment: Mapping[str, str]) -> str:
    """The node of rank 0: the first of the step's nodes."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or ""
    if nodes and "[" not in nodes and "," not in nodes:
        return nodes
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()
        return listed[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"the first of the nodes {nodes!r} could not be found with scontrol ({error}). Set MASTER_ADDR to it."
        ) from error


def apply_sync_bn(cfg: Any, sync_bn: bool, world_size: int, *, on_gpu: bool) -> str | None:
    """``--sync-bn``: batch norm takes its statistics from the batch of all processes.

    Args:
        cfg: changed in place: mmengine reads ``cfg.sync_bn`` and converts every BatchNorm layer, MMDetection's too.
        sync_bn: whether it was asked for.
        world_size: number of processes.
        on_gpu: torch's SyncBatchNorm has no CPU version.

    Returns:
        A line for the terminal where it has no effect, else None.

    Raises:
        ConfigError: several processes on the CPU.
    """
    wanted = sync_bn or bool(cfg.get("sync_bn"))
    if not wanted:
        return None
    if world_size == 1:
        return "--sync-bn has no effect on one process: its batch is the whole batch."
    if not on_gpu:
        raise ConfigError(
            "--sync-bn needs GPUs: torch.nn.SyncBatchNorm has no CPU version. Leave it out (each process then "
            "normalises with its own share of the batch), or train on one process with the whole batch."
        )
    cfg.sync_bn = cfg.get("sync_bn") or "torch"
    return None


def apply_accumulation(cfg: Any, accumulate: int | None) -> None:
    """``--accumulate N``: one update per N batches, with the mean of their gradients; ``cfg`` is changed in place.

    Where the config scales its learning rate with the batch (``auto_scale_lr.enable``), N counts: mmengine's scaling
    leaves it out, so the config's rate is multiplied here.

    Raises:
        ConfigError: N below 1, or a config without a single optimizer.
    """
    if accumulate is None:
        return
    if accumulate < 1:
        raise ConfigError(f"--accumulate must be at least 1 batch per update, got {accumulate}")
    wrapper = cfg.get("optim_wrapper")
    if not isinstance(wrapper, Mapping) or "optimizer" not in wrapper:
        raise ConfigError("--accumulate needs a config with one optim_wrapper that holds its optimizer.")
    wrapper["accumulative_counts"] = accumulate
    scaling = cfg.get("auto_scale_lr") or {}
    if scaling.get("enable") and wrapper["optimizer"].get("lr") is not None:
        wrapper["optimizer"]["lr"] *= accumulate / scaling.get("counted_accumulation", 1)
        cfg.auto_scale_lr["counted_accumulation"] = accumulate  # the record says that it is in the rate


def gather_in_memory(evaluator: Any) -> None:
    """Have the metrics of several processes collected over the network.

    mmengine's default is pickles in ``./.dist_test``, which fails where machines do not share the folder, and stays.
    A metric with a ``collect_dir`` keeps it.
    """
    from mmengine.dist import get_world_size

    for metric in getattr(evaluator, "metrics", ()) if get_world_size() > 1 else ():
        if metric.collect_device == "cpu" and metric.collect_dir is None:
            metric.collect_device = "gpu"  # mmengine's name for it; with gloo nothing leaves the CPU


def mean_over_ranks(scalars: Mapping[str, float]) -> dict[str, float]:
    """Each process's means of the same number of samples -> the mean over all; collective, all ranks get the same."""
    from mmengine.dist import all_gather_object, get_world_size

    if get_world_size() == 1:
        return dict(scalars)
    parts = all_gather_object(dict(scalars))
    common = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: sum(float(part[key]) for part in parts) / len(parts) for key in common}
