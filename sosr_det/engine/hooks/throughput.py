"""Images per second and epochs' data-wait, beside the ETA that mmengine already prints."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``img_per_s``: images of all processes per second of wall time, data loading included."""

    priority = "NORMAL"

    def __init__(self) -> None:
        self._previous: float | None = None

    def before_train_epoch(self, runner) -> None:
        self._previous = time.perf_counter()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        now = time.perf_counter()
        inputs = data_batch.get("inputs") if isinstance(data_batch, dict) else None
        if self._previous is not None and isinstance(inputs, Sized):
            images = len(inputs) * get_world_size()
            runner.message_hub.update_scalar("train/img_per_s", images / max(now - self._previous, 1e-9))
        self._previous = now
