"""Training by steps, exactly resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop

from sosr_det.engine.loops.exact import ExactLoop


@LOOPS.register_module()
class ExactIterLoop(ExactLoop, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` with what :class:`sosr_det.engine.loops.ExactEpochLoop` adds to the epoch loop.

    Samples are augmented by (seed, step, index). Works with samplers with and without an end.
    """

    def engine_state(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The place in the run, for a checkpoint."""
        return self.place.engine_state(0, total_epochs=None, total_steps=self._max_iters)

    def run(self) -> torch.nn.Module:
        """Train until the last step; raises as :meth:`ExactEpochLoop.run` does."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        with self.place.running():
            batches = self._endless()
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                batch = next(batches)
                self.place.release_random_state()
                self.run_iter(batch)
                self._decide_current_val_interval()
                due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
                self.place.after_step(is_last=self._iter == self._max_iters)
                if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
                    self.validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def batch_indices(self, position: int) -> list[int]:
        """Into the data set, of the batch of step ``position`` (from 0) of the run; for a run that ends."""
        count = len(self.dataloader)
        endless = self.dataloader.batch_sampler.is_endless
        return self._batches.indices(*((0, position) if endless else divmod(position, count)))

    def _endless(self) -> Iterator[Any]:
        """Batches from the step that is next: of an endless sampler, or of one pass after the other."""
        count, sampler = len(self.dataloader), self.dataloader.batch_sampler
        if sampler.is_endless:
            yield from self._batches.begin(0, self._iter, self._iter)
            return
        while True:
            yield from self._batches.begin(self._iter // count, self._iter % count, self._iter)
