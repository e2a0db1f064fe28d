"""Tells the training loss which epoch it is."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LossEpochHook(Hook):
    """Calls ``set_epoch(epoch)`` of every loss that has it before each epoch, and ``next_epoch()`` after it.

    ``set_epoch`` moves the schedules of P and beta (:class:`sosr_det.losses.SOSRLoss`); ``next_epoch`` renews the soft
    labels of :class:`sosr_det.losses.OnlineLabelSmoothing`, whose buffers the epoch's checkpoint must already
    hold: hence the high priority. Runs whose losses have neither are left alone.
    """

    priority = "HIGH"

    def before_train_epoch(self, runner) -> None:
        """Epochs count from 0, also after resuming."""
        for module in _loss_modules(runner):
            if callable(getattr(module, "set_epoch", None)):
                module.set_epoch(runner.epoch)

    def after_train_epoch(self, runner) -> None:
        """Before the checkpoint of this epoch is written."""
        for module in _loss_modules(runner):
            if callable(getattr(module, "next_epoch", None)):
                module.next_epoch()


def _loss_modules(runner: Any) -> list[Any]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    loss = getattr(model, "loss_module", None)
    return [] if loss is None else list(loss.modules())
