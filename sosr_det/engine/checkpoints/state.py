"""What a checkpoint of a run holds, as mmengine lays it out."""

from __future__ import annotations

import time
from typing import Any

import mmengine
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from mmengine.utils import apply_to

from sosr_det.errors import TrainingDivergedError


def checkpoint_content(
    runner: Runner, meta: dict[str, Any], *, with_optimizer: bool, with_schedulers: bool
) -> dict[str, Any]:
    """Weights, message hub and ``meta``, and the states of optimizer and schedulers where asked for; all on the CPU.

    The keys are those of mmengine's ``Runner.save_checkpoint``, so that its tools and MMDetection's read the file.
    """
    meta |= {
        "cfg": runner.cfg.pretty_text,
        "seed": runner.seed,
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S", time.localtime()),
        "mmengine_version": mmengine.__version__,
    }
    dataset = runner.train_dataloader.dataset
    if hasattr(dataset, "metainfo"):
        meta["dataset_meta"] = dataset.metainfo
    content = {
        "meta": meta,
        "state_dict": weights_to_cpu(bare_model(runner).state_dict()),
        "message_hub": _on_cpu(runner.message_hub.state_dict()),
    }
    if with_optimizer:
        content["optimizer"] = _on_cpu(runner.optim_wrapper.state_dict())
    if with_schedulers and runner.param_schedulers is not None:
        schedulers = runner.param_schedulers
        content["param_schedulers"] = (
            {name: [each.state_dict() for each in some] for name, some in schedulers.items()}
            if isinstance(schedulers, dict)
            else [each.state_dict() for each in schedulers]
        )
    return content


def bare_model(runner: Runner) -> torch.nn.Module:
    """The model without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def refuse_non_finite(runner: Runner, out_dir: str) -> None:
    """Raise rather than let a checkpoint of a diverged training replace a good one.

    Raises:
        TrainingDivergedError: names the first weight, or statistic of batch norm, that is NaN or infinite.
    """
    model = bare_model(runner)
    statistics = [
        each for each in model.named_buffers() if each[0].endswith(("running_mean", "running_var"))
    ]  # other buffers may be infinite on purpose
    for name, parameter in [*model.named_parameters(), *statistics]:
        if parameter.is_floating_point() and not torch.isfinite(parameter.detach()).all():
            raise TrainingDivergedError(
                f"the weights are no longer finite ({name}), though the loss still was: training diverged in its last "
                f"steps. This state was not saved; the checkpoints in {out_dir} are intact. Try a smaller learning "
                "rate, warm-up or gradient clipping, then --resume."
            )


def _on_cpu(value: Any) -> Any:
    return apply_to(value, lambda each: hasattr(each, "cpu"), lambda each: each.cpu())
