"""The exponential moving average of the weights, exactly: one update per step of the optimizer, buffers included.

mmengine's ``EMAHook`` does the swapping: validation sees the averaged weights, ``state_dict`` of a checkpoint holds
them (so they are what is published), ``ema_state_dict`` holds the trained ones, and a resumed run puts both back. Two
things of it are not exact: with accumulated gradients it averages the same weights several times per step of the
optimizer, and with averaged buffers the counters of batch norm stay what they were after the first step.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel
from mmengine.registry import HOOKS, MODELS
from torch import Tensor, nn


@MODELS.register_module()
class WeightAverage(BaseAveragedModel):
    """``average <- (1 - momentum) * average + momentum * weight`` for every floating-point parameter and buffer.

    Batch-norm statistics are averaged along with the weights that they belong to; integers (numbers of batches) are
    copied. The first update copies everything.

    Args:
        model: the model to average; it is copied.
        momentum: the newest weights' share, inside (0, 1).

    Raises:
        ValueError: momentum outside (0, 1).
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"momentum of averaged weights must lie inside (0, 1), got {momentum}")
        super().__init__(model, update_buffers=True)
        self.momentum = momentum

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """One tensor of the average; :meth:`update_parameters` does all of them at once."""
        averaged_param.lerp_(source_param, self.momentum)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` as they are now; a few kernels for all tensors, not one for each."""
        source = model.state_dict()
        floats: tuple[list[Tensor], list[Tensor]] = [], []
        others: tuple[list[Tensor], list[Tensor]] = [], []
        first = int(self.steps) == 0
        for name, average in self.avg_parameters.items():
            averages, news = others if first or not average.is_floating_point() else floats
            averages.append(average)
            news.append(source[name])
        if floats[0]:
            torch._foreach_lerp_(*floats, self.momentum)
        if others[0]:
            torch._foreach_copy_(*others)
        self.steps += 1


@HOOKS.register_module()
class WeightAverageHook(EMAHook):
    """mmengine's ``EMAHook`` with :class:`WeightAverage`, updated when the optimizer has made a step.

    Args:
        momentum: see :class:`WeightAverage`.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__(ema_type="WeightAverage", momentum=momentum)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Nothing happens while gradients are only accumulated: the weights are the same as before."""
        should_update = getattr(runner.optim_wrapper, "should_update", None)
        if should_update is None or should_update():
            self.ema_model.update_parameters(self.src_model)
