"""Stops a run whose loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from sosr_det.errors import TrainingDivergedError


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Raises at the first step with a NaN or infinite loss, before a checkpoint of it can be written.

    Costs no extra synchronisation: mmengine's own logging reads the loss of every step.
    """

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        terms = {name: _number(value) for name, value in (outputs or {}).items() if "loss" in name}
        loss = terms.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at epoch {runner.epoch + 1}, step {batch_idx + 1} ({terms}). Training "
                "diverged; earlier checkpoints are intact. Try a smaller learning rate, warm-up or gradient clipping."
            )


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
