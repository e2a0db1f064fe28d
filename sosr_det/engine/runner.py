"""mmengine's Runner, with checkpoints that are complete and atomic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from sosr_det.engine.checkpoints.atomic_file import write_checkpoint
from sosr_det.engine.checkpoints.pending_gradients import pending_gradients, restore_pending, share_pending
from sosr_det.engine.checkpoints.rng_state import rng_state
from sosr_det.engine.checkpoints.state import checkpoint_content, refuse_non_finite
from sosr_det.engine.resume.continuity import ResumePlan
from sosr_det.engine.resume.same_data import refuse_other_data
from sosr_det.errors import CheckpointError, SosrError


@RUNNERS.register_module()
class EngineRunner(Runner):
    """A Runner that can be gone on from exactly.

    Beside what mmengine saves, a training checkpoint holds ``rng``, the random state of every rank;
    ``pending_gradients``, those that wait for the optimizer's step; and ``meta['engine']``, the place in the epoch and
    what the place means (:meth:`sosr_det.engine.loops.epoch_loop.ExactEpochLoop.engine_state`).

    Attributes:
        resume_plan: how a resumed run goes on, set before :meth:`train`; None for a new one, or where it is not known.
        resumed_from: the checkpoint that the run has gone on from; None for a new one.
    """

    resume_plan: ResumePlan | None = None
    resumed_from: Path | None = None
    _resumed: dict[str, Any] | None = None

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save as mmengine does, but whole or not at all; every rank must call it.

        Raises:
            CheckpointError: it cannot be written; on every rank, so that none waits for rank 0.
            TrainingDivergedError: a weight is NaN or infinite: such a checkpoint would replace a good one.
        """
        if "://" in str(out_dir):  # a place that knows no replacing: mmengine's own way
            super().save_checkpoint(
                out_dir,
                filename,
                file_client_args,
                save_optimizer,
                save_param_scheduler,
                meta,
                by_epoch,
                backend_args,
            )
            return
        ranks = None
        if save_optimizer:
            share_pending(self)
            ranks = all_gather_object(self._random_state())
        meta = {
            "epoch": self.epoch + 1 if by_epoch else self.epoch,
            "iter": self.iter if by_epoch else self.iter + 1,
            **(meta or {}),
        }
        failure: list[Any] = [None]
        if is_main_process():
            try:
                refuse_non_finite(self, str(out_dir))
                content = checkpoint_content(
                    self, meta, with_optimizer=save_optimizer, with_schedulers=save_param_scheduler
                )
                if hasattr(self.train_loop, "engine_state"):
                    meta["engine"] = self.train_loop.engine_state(meta)
                if save_optimizer:
                    content["rng"] = ranks
                    content["pending_gradients"] = pending_gradients(self)
                self.call_hook("before_save_checkpoint", checkpoint=content)
                write_checkpoint(Path(out_dir) / filename, content)
            except SosrError as error:
                failure = [error]
            except Exception as error:  # the other ranks must hear of it, or they wait for ever
                if get_world_size() == 1:
                    raise
                failure = [
                    CheckpointError(f"rank 0 could not save {filename}: {type(error).__name__}: {error}")
                ]
        broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise failure[0]

    def _random_state(self) -> dict[str, Any]:
        place = getattr(self.train_loop, "place", None)
        return place.random_state() if place else rng_state()

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load as mmengine does; of a checkpoint to go on from, the engine's part is kept for :meth:`resume`."""
        checkpoint = super().load_checkpoint(*args, **kwargs)
        if self._resume:
            self._resumed = {name: checkpoint.pop(name, None) for name in ("rng", "pending_gradients")}
            self._resumed["meta"] = checkpoint["meta"]
            if self.resume_plan is not None and self.resume_plan.replays_schedules:
                self.resume_plan.schedules.remember(self, checkpoint)
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint: as mmengine does, and then the place in the epoch, random states and gradients."""
        super().resume(filename, *args, **kwargs)
        self.resumed_from = Path(filename)
        resumed = self._resumed or {}
        if hasattr(self.train_loop, "restore"):
            self.train_loop.restore(resumed.get("meta") or {}, resumed.get("rng"))
            refuse_other_data(self)
        if self.resume_plan is not None and self.resume_plan.replays_schedules:
            self.resume_plan.schedules.replay(self)
        if resumed.get("pending_gradients"):
            restore_pending(self, resumed["pending_gradients"])
        self._resumed = None
