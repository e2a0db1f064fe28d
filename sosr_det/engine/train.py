"""Training of any stage: one Runner, the contracts checked, a record left, backbone or detector published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from sosr_det.engine.acceleration.memory import keep_freed_memory
from sosr_det.engine.checkpoints.names import training_checkpoints
from sosr_det.engine.config_cost import formatted_once
from sosr_det.engine.determinism import deterministic_settings_restored
from sosr_det.engine.folder_lock import folders_released, hold_folder
from sosr_det.engine.parent_run import note_parent
from sosr_det.engine.prepare import prepare_training
from sosr_det.engine.publishing import publish_run
from sosr_det.engine.run_record import (
    FILE_NAME,
    kept_checkpoint,
    read_run_record,
    run_files,
)
from sosr_det.engine.setup import (
    build_runner,
    require_disk_space,
)
from sosr_det.engine.signals import SavedInterrupt, StoppedOnRequest, active_stop_signals, stop_signals
from sosr_det.engine.telemetry.display import attach_display
from sosr_det.engine.train_options import TrainOptions
from sosr_det.engine.work_dir import (
    after_interrupt,
    clean_up_after,
    is_interrupt,
    make_folder,
)

# Bytes kept per parameter byte: weights and momentum, in the last two, the file being written, and the best weights.
_CHECKPOINT_FACTOR = 7
# What a run needs though its files are there: the file being written, and the best weights.
_WRITTEN_FACTOR = 3


@stop_signals()  # saved at the next step, and recorded
@deterministic_settings_restored()
@formatted_once()
@folders_released()
def run_training(options: TrainOptions) -> Path:
    """Train, record and publish; returns the work directory.

    A run that fails before its first step leaves no new work directory behind.

    Raises:
        SosrError: whatever the user can act on; see the subclasses.
    """
    prepared = prepare_training(options)
    if prepared.plan.device.kind == "cpu":
        keep_freed_memory()
    cfg, work_dir = prepared.cfg, prepared.work_dir
    created = make_folder(work_dir)
    hold_folder(work_dir)  # a new one; another was held before anything was decided about it
    runner = None
    try:
        runner = build_runner(cfg, for_training=True, plan=prepared.plan)
        attach_display(runner, options.progress)
        note_parent(runner, prepared.parent)
        runner.resume_plan = prepared.resume_plan
        weights = sum(p.numel() * p.element_size() for p in runner.model.parameters())
        require_disk_space(work_dir, room_needed(work_dir, weights), "keeping the checkpoints")
        with prepared.plan.applied_to(runner):
            runner.train()
    except BaseException as error:
        worked = runner is not None and runner.iter > 0
        for hook in runner.hooks if runner is not None else ():
            if hasattr(hook, "release"):  # the backbone's entry is not used any more
                hook.release()
        _end_early(error, work_dir, remove=created and not worked, says=runner is None or runner.rank == 0)
    if runner.rank == 0:
        _finish(work_dir, prepared.name)
    return work_dir


def room_needed(work_dir: Path, weight_bytes: int) -> int:
    """Free bytes that the checkpoints of a run will take, beside those that it replaces or goes on to keep."""
    there = sum(path.stat().st_size for path in run_files(work_dir) if path.suffix == ".pth")
    return max(_CHECKPOINT_FACTOR * weight_bytes - there, _WRITTEN_FACTOR * weight_bytes)


def _end_early(error: BaseException, work_dir: Path, *, remove: bool, says: bool) -> NoReturn:
    """Record how the run ended, say how to go on, and raise."""
    if isinstance(error, (StoppedOnRequest, SavedInterrupt)):
        clean_up_after(error, work_dir, remove=False, status="stopped")
        if isinstance(error, SavedInterrupt):
            raise KeyboardInterrupt(error.text) from error
        if says:
            print(error.text, file=sys.stderr)
        raise error
    interrupted = is_interrupt(error)
    signals = active_stop_signals()
    first_request = isinstance(error, SystemExit) and not (signals and signals.received)
    if interrupted and first_request and not remove and training_checkpoints(work_dir):
        # The training was not running yet, or not any more, and what it had done is saved.
        clean_up_after(error, work_dir, remove=False, status="stopped")
        if says:
            print("stopped by SIGTERM while nothing was trained; continue with --resume", file=sys.stderr)
        raise StoppedOnRequest("stopped while nothing was trained") from error
    clean_up_after(error, work_dir, remove=remove, status="interrupted" if interrupted else "failed")
    if not interrupted:
        raise error
    advice = after_interrupt(work_dir, removed=remove)
    if isinstance(error, SystemExit):
        if says:
            print(f"interrupted; {advice}", file=sys.stderr)
        raise error
    raise KeyboardInterrupt(advice) from error


def _finish(work_dir: Path, name: str | None) -> None:
    record = read_run_record(work_dir)
    best = record.get("best")
    if best:
        place = work_dir / best["checkpoint"] if best["checkpoint"] else "its checkpoint is missing"
        chosen = f"step {best['iter']}" if "iter" in best else f"epoch {best['epoch']}"
        print(f"best {chosen}: {best['metric']} {best['value']:.4f} ({place})")
    elif (record.get("selection") or {}).get("on") == "last":
        print(f"last epoch {record['epochs'][-1]['epoch']}: {kept_checkpoint(work_dir, record)}")
    print(f"run record: {work_dir / FILE_NAME}")
    if name:
        entry = publish_run(work_dir, name)
        print(f"published {entry['uri']}\n  {entry['pinned_uri']}")
