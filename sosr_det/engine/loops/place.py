"""Where a training stands between its steps, and what happens there: saving, stopping, going on from a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook

from sosr_det.engine.checkpoints.hook import AtomicCheckpointHook
from sosr_det.engine.checkpoints.pending_gradients import are_pending
from sosr_det.engine.checkpoints.rng_state import reseed, rng_state, set_rng_state
from sosr_det.engine.loops.stop_consensus import StopConsensus, Wish, signal_name
from sosr_det.engine.loops.validation import outliving_workers
from sosr_det.engine.loops.workers import deaths_wait_for_fetches
from sosr_det.engine.resume.continuity import ENGINE_VERSION, counted
from sosr_det.engine.signals import SavedInterrupt, StoppedOnRequest, active_stop_signals
from sosr_det.errors import ConfigError

SAVE_EVERY_MINUTES = 30.0  # unless the config's `save_every_minutes` says otherwise


class Place:
    """The part that the epoch loop and the step loop share.

    Args:
        runner: of the loop.
        loader: the training data loader.

    Attributes:
        batches_done: batches of the unfinished epoch that were trained on; 0 between epochs.
    """

    def __init__(self, runner: Any, loader: Any) -> None:
        self.runner = runner
        self.loader = loader
        self.batches_done = 0
        self._consensus = StopConsensus(float(runner.cfg.get("save_every_minutes", SAVE_EVERY_MINUTES)))
        self._wish = Wish()
        self._waiting_rng: dict[str, Any] | None = None  # to be set when the training goes on
        runner.register_hook(_StopInValidation(self))

    # --- what a checkpoint holds -----------------------------------------------------------------------------------

    def engine_state(self, batches_done: int, **totals: int | None) -> dict[str, Any]:
        """For ``meta['engine']`` of a checkpoint: the place, and all that it depends on.

        Args:
            batches_done: of the unfinished epoch.
            totals: ``total_epochs`` and ``total_steps``, as in :class:`sosr_det.engine.resume.continuity.Setup`.
        """
        return {
            "version": ENGINE_VERSION,
            "seed": self.runner.seed,
            "world_size": get_world_size(),
            "batch_size_per_device": self.loader.batch_sampler.batch_size,
            "accumulative_counts": getattr(self.runner.optim_wrapper, "_accumulative_counts", 1),
            "num_samples": len(self.loader.dataset),
            "batches_per_epoch": len(self.loader),
            "batches_done": batches_done,
            **totals,
        }

    def random_state(self) -> dict[str, Any]:
        """Of the training, also while something else draws from the generators or before it has gone on."""
        return self._waiting_rng if self._waiting_rng is not None else rng_state()

    # --- going on --------------------------------------------------------------------------------------------------

    def restore(self, meta: Mapping[str, Any], rng: Sequence[Mapping[str, Any]] | None) -> None:
        """Take the place of a checkpoint; random states are set when the first step is due.

        Raises:
            ConfigError: the training data have another number of samples than they had.
        """
        state, plan, rank = meta.get("engine") or {}, self.runner.resume_plan, get_rank()
        now = len(self.loader.dataset)
        if state.get("num_samples") not in (None, now):
            raise ConfigError(
                f"--resume: the run was trained on {state['num_samples']} samples, and there are {now} now, so its "
                "order of samples cannot be continued. Give it the data it had (--data-root, --classes, --select-on), "
                "or start a new run."
            )
        self.batches_done = int(state.get("batches_done", 0))
        if plan is not None and plan.batches_done is not None:
            self.batches_done = plan.batches_done
        if plan is not None and not plan.keeps_random_states:
            reseed("resumed", self.runner.seed or 0, meta["epoch"], self.batches_done, rank)
            self._waiting_rng = rng_state()
        elif rng is not None and rank < len(rng):
            self._waiting_rng = dict(rng[rank])

    def release_random_state(self) -> None:
        """The training goes on: set the generators to where they were."""
        if self._waiting_rng is not None:
            set_rng_state(self._waiting_rng)
            self._waiting_rng = None

    @contextmanager
    def training_suspended(self) -> Iterator[None]:
        """What the block draws (a validation) leaves the training's random numbers alone, also in its checkpoints."""
        self._waiting_rng = self.random_state()
        goes_on = self._goes_on
        try:
            with outliving_workers(self.runner.val_loop):
                yield
        finally:
            if goes_on:
                self.release_random_state()

    _goes_on = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block signals wait for :meth:`after_step`, and dead worker processes for the next batch."""
        signals = active_stop_signals()
        if signals:
            signals.can_save = True
        self._goes_on = True
        try:
            with deaths_wait_for_fetches():
                yield
        finally:
            self._goes_on = False
            if signals:
                signals.can_save = False

    # --- between steps ---------------------------------------------------------------------------------------------

    def after_step(self, *, is_last: bool) -> None:
        """Save or stop if that is due: after the optimizer's step, and at an epoch's end in :meth:`after_epoch`."""
        wish = self._consensus.after_step()
        self._wish = Wish(self._wish.stop or wish.stop, self._wish.save or wish.save)
        if not (self._wish.stop or self._wish.save) or is_last or are_pending(self.runner.optim_wrapper):
            return
        hook = self._hook()
        path = hook.save_mid_epoch(self.runner) if hook else None
        self._saved()
        self._stop_if_asked(path)

    def after_epoch(self) -> None:
        """Stop if that was asked for; saved first, unless the epoch's own checkpoint is there."""
        wish = self._consensus.settle()
        self._wish = Wish(self._wish.stop or wish.stop, self._wish.save or wish.save)
        if not (self._wish.stop or self._wish.save):
            return
        hook = self._hook()
        path = Path(hook.last_ckpt) if hook and self.is_saved() else None
        if hook and path is None:
            path = hook.save_epoch_end(self.runner)
        self._saved()
        self._stop_if_asked(path)

    def is_saved(self) -> bool:
        """Whether the newest checkpoint is of this very place, between two epochs."""
        hook = self._hook()
        name = hook.filename_tmpl.format(self.runner.epoch) if hook else None
        return bool(hook and hook.last_ckpt and Path(hook.last_ckpt).name == name)

    def stop_now_if_saved(self) -> None:
        """In a validation: nothing is trained, so one process need not wait for its end if the epoch is saved."""
        signals = active_stop_signals()
        if signals and signals.received and get_world_size() == 1 and self.is_saved():
            self._wish = Wish(int(signals.received))
            self._stop_if_asked(Path(self._hook().last_ckpt))

    def _saved(self) -> None:
        self._wish = Wish(self._wish.stop)
        self._consensus.saved()

    def _stop_if_asked(self, path: Path | None) -> None:
        if not self._wish.stop:
            return
        name = signal_name(self._wish.stop)
        where = f"epoch {self.runner.epoch + 1}, step {self.batches_done} of {len(self.loader)}"
        if not self.batches_done:
            where = counted(self.runner.epoch, self.runner.iter)
        text = f"stopped by {name} after {where}; " + (
            f"saved {path.name}, continue with --resume"
            if path
            else "this run keeps no checkpoints, nothing is saved"
        )
        signals = active_stop_signals()
        if signals:
            signals.saved = True
        raise SavedInterrupt(text) if self._wish.stop == signal.SIGINT else StoppedOnRequest(text)

    def _hook(self) -> AtomicCheckpointHook | None:
        return next((each for each in self.runner.hooks if isinstance(each, AtomicCheckpointHook)), None)


class _StopInValidation(Hook):
    """A request to stop need not wait for the end of a long validation."""

    priority = "LOWEST"

    def __init__(self, place: Place) -> None:
        self._place = place

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._place.stop_now_if_saved()
