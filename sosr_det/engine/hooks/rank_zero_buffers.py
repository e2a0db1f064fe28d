"""Gives every rank the batch-norm statistics that the checkpoint will hold."""

from __future__ import annotations

import torch.distributed
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RankZeroBuffersHook(Hook):
    """Broadcasts rank 0's buffers after each training epoch, before validation and the checkpoint.

    mmengine wraps models with ``broadcast_buffers=False``, so running means and variances drift apart. Validation is
    shared between the ranks while the checkpoint holds rank 0's buffers: without this the metrics of a multi-GPU run
    would not be those of the published weights.
    """

    priority = "NORMAL"

    def after_train_epoch(self, runner) -> None:
        if is_distributed():
            for buffer in runner.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
