"""When checkpoints are saved, and which are kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from sosr_det.engine.checkpoints.atomic_file import remove_checkpoint, write_text
from sosr_det.engine.checkpoints.names import (
    POINTER,
    is_mid_epoch,
    mid_epoch_name,
    progress,
    training_checkpoints,
)
from sosr_det.errors import CheckpointError

logger = logging.getLogger("sosr_det")


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook that never has fewer checkpoints than it had, and leaves none half written.

    Takes the arguments of mmengine's. `sosr-det train` puts it in the place of every ``CheckpointHook``. What differs:

    - an older file is removed only when the newer one is on the disk, checked and pointed to, also a former best one;
    - the file is written by :meth:`sosr_det.engine.runner.EngineRunner.save_checkpoint`: whole or not at all;
    - ``last_checkpoint`` is replaced as a whole;
    - :meth:`save_mid_epoch` saves between two steps; such a file goes when the next checkpoint is there.

    ``max_keep_ckpts=2``, the shipped configs' value, leaves one to fall back to should the disk damage the last.
    """

    def before_train(self, runner: Any) -> None:
        """As mmengine's; a resumed run knows its newest checkpoint: the one that it goes on from."""
        super().before_train(runner)
        came_from = getattr(runner, "resumed_from", None)
        if came_from is not None and came_from.parent.resolve() == Path(self.out_dir).resolve():
            self.last_ckpt = self.file_backend.join_path(self.out_dir, came_from.name)

    def save_mid_epoch(self, runner: Any) -> Path:
        """Save between two steps of an epoch; every rank must call it. Returns the file.

        Hooks that sum something up over an epoch may have ``before_save_mid_epoch(runner)``, called on every rank, to
        put it into the message hub, which travels in the checkpoint.
        """
        runner.call_hook("before_save_mid_epoch")
        if self.by_epoch:
            name = mid_epoch_name(runner.epoch + 1, runner.iter)
        else:
            name = self.filename_tmpl.format(runner.iter)
        self._save(runner, name, {"epoch": runner.epoch, "iter": runner.iter})
        return Path(self.out_dir) / name

    def save_epoch_end(self, runner: Any) -> Path:
        """Save after an epoch that the interval leaves out; every rank must call it. Returns the file."""
        name = self.filename_tmpl.format(runner.epoch)
        self._save(runner, name, {"epoch": runner.epoch, "iter": runner.iter})
        return Path(self.out_dir) / name

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Any, filename: str, meta: dict[str, Any]) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        failure: list[Any] = [None]
        if is_main_process():
            try:
                write_text(Path(runner.work_dir) / POINTER, self.last_ckpt)
            except OSError as error:
                failure = [
                    CheckpointError(
                        f"{filename} was saved, but {Path(runner.work_dir) / POINTER}, which names the newest "
                        f"checkpoint, cannot be written: {error.strerror or error}. Check the disk and free some "
                        "space, then continue with --resume, which finds the file without it."
                    )
                ]
            else:
                self._remove_older(filename)
        broadcast_object_list(failure, src=0)  # the other ranks would wait for this one's next step
        if failure[0] is not None:
            raise failure[0]

    def _remove_older(self, filename: str) -> None:
        """What is older than the file that is now safe, and not to be kept."""
        folder = Path(self.out_dir)
        now = progress(Path(filename))
        if (
            now is None or not folder.is_dir()
        ):  # names or a place of its own: nothing is known about the others
            return
        older = [path for path in training_checkpoints(folder) if progress(path) < now]
        whole = [path for path in older if not is_mid_epoch(path)]
        removed = [path for path in older if is_mid_epoch(path)]
        if self.max_keep_ckpts > 0:
            kept = self.max_keep_ckpts if is_mid_epoch(Path(filename)) else self.max_keep_ckpts - 1
            removed += whole[: len(whole) - kept]
        for path in removed:
            _remove(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        place = runner.epoch if self.by_epoch else runner.iter
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        several = len(self.key_indicators) > 1
        saved = {}
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            suffix = f"_{key}" if several else ""
            info = runner.message_hub.runtime_info
            score = metrics[key]
            best = info.get(f"best_score{suffix}", self.init_value_map[rule])
            if score is None or not self.is_better_than[key](score, best):
                continue
            name = f"best_{key}_{self.filename_tmpl.format(place)}".replace("/", "_")
            path = self.file_backend.join_path(self.out_dir, name)
            runner.message_hub.update_info(f"best_score{suffix}", score)
            runner.message_hub.update_info(f"best_ckpt{suffix}", path)
            if several:
                self.best_ckpt_path_dict[key] = path
            else:
                self.best_ckpt_path = path
            runner.save_checkpoint(
                self.out_dir,
                filename=name,
                file_client_args=self.file_client_args,
                save_optimizer=False,
                save_param_scheduler=False,
                meta=dict(meta),
                by_epoch=False,
                backend_args=self.backend_args,
            )
            saved[key] = name
            runner.logger.info(f"best {key} so far, {score:.4f}, is kept in {name}")
        if not saved:
            return
        if self.last_ckpt is not None:
            # Again, as it must know of the best one: a resumed run compares with it. Under the name of this place: the
            # last one may be of an earlier place, where not every one is saved.
            self._save(runner, self.filename_tmpl.format(place), meta)
        if is_main_process():
            self._remove_former_best(saved)

    def _remove_former_best(self, saved: dict[str, str]) -> None:
        unit = "epoch" if self.by_epoch else "iter"
        for key, name in saved.items():
            prefix = f"best_{key}".replace("/", "_")
            for path in Path(self.out_dir).glob(f"{prefix}_{unit}_*.pth"):
                if path.name != name:
                    _remove(path)


def _remove(path: Path) -> None:
    """A file too many does no harm, and a training that stops does."""
    try:
        remove_checkpoint(path)
    except OSError as error:
        logger.warning(f"the older checkpoint {path} cannot be removed: {error.strerror or error}")
