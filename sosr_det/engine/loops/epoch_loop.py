"""Training by epochs, exactly resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from sosr_det.engine.loops.exact import ExactLoop


@LOOPS.register_module()
class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, with the same arguments and hooks, that can be stopped after any step.

    `sosr-det train` puts it in the place of mmengine's. What differs:

    - samples are augmented by (seed, epoch, index) alone (:mod:`sosr_det.data.sample_seeds`);
    - a resumed run goes on with the batch that was next, in the middle of an epoch too, and with the random states of
      every rank; nothing is loaded to be skipped;
    - validation leaves the training's random numbers alone;
    - SIGTERM, SIGUSR1 and Ctrl-C save after the step and stop; so does the clock, every ``save_every_minutes`` of the
      config (30 unless it says otherwise, 0 for never), and goes on;
    - worker processes that die are started again.

    Args:
        runner, dataloader: see :class:`sosr_det.engine.loops.exact.ExactLoop`.
        kwargs: ``max_epochs``, ``val_begin``, ``val_interval`` and ``dynamic_intervals`` of mmengine's.
    """

    def engine_state(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The place in the epoch, for a checkpoint."""
        # Not place.batches_done: a hook may save in the middle of a step's end.
        done = meta["iter"] - meta["epoch"] * len(self.dataloader)
        return self.place.engine_state(done, total_epochs=self._max_epochs, total_steps=None)

    def restore(self, meta: Mapping[str, Any], rng: Sequence[Mapping[str, Any]] | None) -> None:
        """Go on from the place of a checkpoint; see :meth:`sosr_det.engine.loops.place.Place.restore`."""
        super().restore(meta, rng)
        plan = self.runner.resume_plan
        if plan is not None and plan.replays_schedules:  # the steps may be of another size than they were
            self._iter = self._epoch * len(self.dataloader) + self.place.batches_done

    def run(self) -> torch.nn.Module:
        """Train until the last epoch.

        Raises:
            StoppedOnRequest: after SIGTERM or SIGUSR1; everything is saved.
            SavedInterrupt: after Ctrl-C; everything is saved.
        """
        self.runner.call_hook("before_train")
        if not self.place.batches_done:
            self.place.release_random_state()
        with self.place.running():
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self.place.after_epoch()
                self._decide_current_val_interval()
                due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
                if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
                    self.validate()
                    self.place.after_epoch()
        self.runner.call_hook("after_train")
        return self.runner.model

    def batch_indices(self, position: int) -> list[int]:
        """Into the data set, of batch ``position`` (from 0) of the current epoch; for a run that ends."""
        return self._batches.indices(self._epoch, position)

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first, count = self.place.batches_done, len(self.dataloader)
        for index, batch in enumerate(self._batches.begin(self._epoch, first), first):
            self.place.release_random_state()  # of a run that goes on in the middle of an epoch
            self.run_iter(index, batch)
            self.place.batches_done = index + 1
            self.place.after_step(is_last=index + 1 == count)
        self.place.batches_done = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
