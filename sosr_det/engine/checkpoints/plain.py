"""Keeps training checkpoints to tensors and plain Python types, so that no loader ever needs to run code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

_MARK = "sosr_det_history"
_FEWEST_KEPT = 1000  # values; mmengine's log averages over tens


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Stores mmengine's log history as tensors and turns it back on resume.

    mmengine pickles ``HistoryBuffer`` objects (with ``getattr`` calls) and numpy scalars into every checkpoint, which
    ``torch.load(weights_only=True)`` refuses. With this hook the file loads under ``weights_only=True`` alone.

    Of each history, what the current epoch and the one before have logged is stored: nobody asks for more, and all of
    it would make each checkpoint of a long run larger than the one before.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        dataloader = getattr(runner.train_loop, "dataloader", None)
        longest = _FEWEST_KEPT
        if dataloader is not None and runner.max_epochs > 1:
            longest = max(longest, 2 * len(dataloader))
        for key in ("message_hub", "meta"):
            if key in checkpoint:
                checkpoint[key] = to_plain(checkpoint[key], longest)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = from_plain(checkpoint["message_hub"])


def to_plain(value: Any, longest: int | None = None) -> Any:
    """Replace history buffers and numpy values by dicts, tensors and Python numbers, recursively.

    Args:
        value: what a checkpoint holds.
        longest: of each history at most so many of the latest values are kept, at least 1; None keeps all.
    """
    if isinstance(value, HistoryBuffer):
        log, count = (part if longest is None else part[-longest:] for part in value.data)
        return {
            _MARK: torch.tensor(np.asarray(log, dtype=np.float64)),
            "count": torch.tensor(np.asarray(count, dtype=np.int64)),
            "max_length": value.max_length,
        }
    if isinstance(value, dict):
        return {key: to_plain(item, longest) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(item, longest) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain` for the history buffers."""
    if isinstance(value, dict):
        if _MARK in value:
            log, count = value[_MARK].cpu().numpy(), value["count"].cpu().numpy()
            return HistoryBuffer(list(log), list(count), value["max_length"])
        return {key: from_plain(item) for key, item in value.items()}
    return value
