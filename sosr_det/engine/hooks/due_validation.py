"""Makes up for a validation that a run was killed in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from sosr_det.engine.run_record import FILE_NAME, read_run_record

logger = logging.getLogger("sosr_det")


@HOOKS.register_module()
class DueValidationHook(Hook):
    """When a run is resumed, validates the epoch it is resumed from, if that was due and never recorded.

    mmengine saves an epoch's checkpoint before it validates the epoch, and goes on after a resumption with the next
    one. So the validation that a run was killed in would never be made, and the best epoch might be lost.

    Goes after RunRecordHook in the list of hooks: it reads the record as that hook continues it.
    """

    priority = "LOWEST"

    def before_train(self, runner) -> None:
        found = [(self._is_owed(runner), _recorded(runner)) if is_main_process() else None]
        broadcast_object_list(found, src=0)  # ranks may not share a folder
        owed, recorded = found[0]
        if owed:
            _forget_validations(runner, recorded)
            place = f"Step {runner.iter}" if _counts_steps(runner) else f"Epoch {runner.epoch}"
            runner.logger.info(f"{place} was not validated before the run stopped: doing so now")
            runner.train_loop.validate() if hasattr(runner.train_loop, "validate") else runner.val_loop.run()

    @staticmethod
    def _is_owed(runner) -> bool:
        if _counts_steps(runner):
            if not runner.iter or not _is_due_after_step(runner, runner.iter):
                return False
        elif not runner.epoch or not is_due(runner, runner.epoch) or _is_within_an_epoch(runner):
            return False
        folder = Path(runner.work_dir)
        if not (folder / FILE_NAME).is_file():
            return False
        epochs = read_run_record(folder)["epochs"]
        key, place = ("iter", runner.iter) if _counts_steps(runner) else ("epoch", runner.epoch)
        return not any(each.get(key) == place and "val" in each for each in epochs)


def _is_within_an_epoch(runner: Any) -> bool:
    """Whether the weights are no longer those of a finished epoch: what they score is not that epoch's."""
    place = getattr(runner.train_loop, "place", None)
    return place is not None and place.batches_done > 0


def _counts_steps(runner: Any) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def _recorded(runner: Any) -> int:
    """Validations in the run's record."""
    folder = Path(runner.work_dir)
    if not (folder / FILE_NAME).is_file():
        return 0
    return sum("val" in each for each in read_run_record(folder)["epochs"])


def _forget_validations(runner: Any, recorded: int) -> None:
    """Drop what a validation logged that was made and saved, but not recorded: it will be made, and logged, again."""
    scalars = runner.message_hub.log_scalars
    for name, buffer in list(scalars.items()):
        values, counts = buffer.data
        if not name.startswith("val/") or len(values) <= recorded:
            continue
        if not recorded:
            del scalars[name]  # mmengine's log reads the last value of each
        else:
            scalars[name] = type(buffer)(values[:recorded], counts[:recorded], buffer.max_length)


def is_due(runner: Any, epoch: int) -> bool:
    """Whether a run by epochs validates after this one (counted from 1), as mmengine's training loop decides it."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop) or epoch < loop.val_begin:
        return False
    return epoch % _interval_at(loop, epoch) == 0 or epoch == loop.max_epochs


def _is_due_after_step(runner: Any, step: int) -> bool:
    """The same of a run that counts steps."""
    loop = runner.train_loop
    if runner.val_loop is None or step < loop.val_begin:
        return False
    return step % _interval_at(loop, step) == 0 or step == loop.max_iters


def _interval_at(loop: Any, place: int) -> int:
    interval = loop.val_interval
    for milestone, after in zip(loop.dynamic_milestones or (), loop.dynamic_intervals or (), strict=True):
        if place + 1 >= milestone:
            interval = after
    return interval
