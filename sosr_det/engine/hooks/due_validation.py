"""Makes up for a validation that a run was killed in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

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
            runner.logger.info(f"Epoch {runner.epoch} was not validated before the run stopped: doing so now")
            runner.train_loop.validate() if hasattr(runner.train_loop, "validate") else runner.val_loop.run()

    @staticmethod
    def _is_owed(runner) -> bool:
        if not runner.epoch or not is_due(runner, runner.epoch):
            return False
        folder = Path(runner.work_dir)
        if not (folder / FILE_NAME).is_file():
            return False
        epochs = read_run_record(folder)["epochs"]
        return not any(each["epoch"] == runner.epoch and "val" in each for each in epochs)


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
    interval = loop.val_interval
    for milestone, after in zip(loop.dynamic_milestones or (), loop.dynamic_intervals or (), strict=True):
        if epoch + 1 >= milestone:
            interval = after
    return epoch % interval == 0 or epoch == loop.max_epochs
