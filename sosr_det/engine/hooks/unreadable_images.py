"""Tells of images that were skipped because they cannot be read, and keeps their count over a resumption."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from sosr_det.data.unreadable import UnreadableImages, find_unreadable

logger = logging.getLogger("sosr_det")

KEY = "unreadable_images"  # in the message hub and in run.json


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """One line in the log for each unreadable image, when it is first met; all of them in ``run.json``.

    Does nothing where :class:`~sosr_det.data.unreadable.SkipUnreadable` is not in use.

    Args:
        interval: steps between two looks at what the worker processes found, at least 1.

    Raises (after an epoch):
        DataError: all processes together met more than the limit.
    """

    priority = "BELOW_NORMAL"  # before a checkpoint is saved, which keeps the count

    def __init__(self, interval: int = 10) -> None:
        self.interval = max(1, interval)
        self._found: UnreadableImages | None = None
        self._told: set[int] = set()

    def before_train(self, runner: Any) -> None:
        self._found = find_unreadable(runner.train_dataloader.dataset)
        if self._found is None:
            return
        kept = runner.message_hub.runtime_info.get(KEY)
        if kept:
            self._found.mark(kept["indices"])
            self._told.update(kept["indices"])
        self._tell(runner)  # those that were met while a set was read into memory

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._found is not None and self.every_n_inner_iters(batch_idx, self.interval):
            self._tell(runner)

    def after_train_epoch(self, runner: Any) -> None:
        if self._found is None:
            return
        for indices in all_gather_object(self._found.indices()):
            self._found.mark(indices)
        self._tell(runner)
        self._found.check()

    def _tell(self, runner: Any) -> None:
        indices = self._found.indices()
        new = [index for index in indices if index not in self._told]
        for index in new:
            logger.warning(
                f"skipped, as it cannot be read: {self._found.name(index)} ({len(indices)} of at most "
                f"{self._found.most}); the next readable image takes its place"
            )
        self._told.update(new)
        runner.message_hub.update_info(
            KEY,
            {
                "count": len(indices),
                "most": self._found.most,
                "indices": indices,
                "paths": [self._found.name(index) for index in indices],
            },
        )
