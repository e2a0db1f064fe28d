"""Whether a run begins anew or goes on, and from which checkpoint: decided on rank 0, before anything is built."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from sosr_det.engine.checkpoints.choice import Choice, choose_checkpoint
from sosr_det.engine.checkpoints.names import DAMAGED, training_checkpoints
from sosr_det.engine.config_comparison import Difference, config_differences
from sosr_det.engine.exact_engine import EQUIVALENT_TYPES
from sosr_det.engine.resume.continuity import ResumePlan
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import CheckpointError, ConfigError, SosrError

# What the plan of a resumption has looked at by itself.
_PLANNED = ("train_cfg.max_epochs", "train_cfg.max_iters", "train_dataloader.batch_size", "randomness.seed",
            "optim_wrapper.accumulative_counts")  # fmt: skip
_MOST_SHOWN = 8


def settle_start(options: TrainOptions, work_dir: Path) -> tuple[TrainOptions, Choice | None, list[str]]:
    """Decide between going on and beginning; the same on all ranks.

    ``--resume`` goes on and never begins; ``--auto-resume`` begins where the folder holds no run, or one that has not
    saved anything yet; ``--fresh`` lets both begin anew where no checkpoint can be used, and keeps damaged files.

    Returns:
        the options with ``resume`` and ``overwrite`` settled, the checkpoint to go on from, and lines for the user.

    Raises:
        ConfigError: options that exclude each other.
        CheckpointError: there is nothing to go on from, and beginning anew was not allowed.
    """
    if options.overwrite and (options.resume or options.auto_resume):
        name = "--resume" if options.resume else "--auto-resume"
        raise ConfigError(f"{name} continues a run and --overwrite replaces it: choose one.")
    if options.fresh and not (options.resume or options.auto_resume):
        raise ConfigError(
            "--fresh allows --resume and --auto-resume to begin anew where no checkpoint can be used; give it with one "
            "of them. To replace a run that is whole, use --overwrite."
        )
    if not (options.resume or options.auto_resume):
        return options, None, []
    box: list[Any] = [None]
    if is_main_process():
        try:
            box = [_decide(options, work_dir)]
        except SosrError as error:
            box = [error]
    broadcast_object_list(box, src=0)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def _decide(options: TrainOptions, work_dir: Path) -> tuple[TrainOptions, Choice | None, list[str]]:
    begin = replace(options, resume=False, overwrite=(work_dir / FILE_NAME).exists())
    try:
        choice = choose_checkpoint(work_dir)
    except CheckpointError as error:
        if not options.fresh:
            raise
        for path in training_checkpoints(work_dir):
            os.replace(path, path.with_name(path.name + DAMAGED))
        return begin, None, [f"beginning anew, as --fresh allows: {error}"]
    if choice is not None:
        return replace(options, resume=True), choice, choice.notes
    if options.fresh:
        return begin, None, [f"beginning anew, as --fresh allows: {work_dir} holds no checkpoint"]
    saved = _finished_epochs(work_dir)
    if options.auto_resume and not saved:
        return begin, None, []
    missing = f"its record tells of {saved} finished epochs, but no checkpoint is there" if saved else (
        "there is nothing to resume: it holds no checkpoint"
    )  # fmt: skip
    raise CheckpointError(
        f"--resume: {work_dir}: {missing}. Leave out --resume to start (--auto-resume does either), name the run's "
        "folder with --work-dir, or give --fresh to begin anew here."
    )


def _finished_epochs(work_dir: Path) -> int:
    if not (work_dir / FILE_NAME).is_file():
        return 0
    return len(read_run_record(work_dir)["epochs"])


def recall_options(options: TrainOptions, choice: Choice, work_dir: Path) -> TrainOptions:
    """What the run was started with and is not said again: its seed, and its number of epochs if that was an option."""
    seed = choice.meta.get("seed")
    asked = read_run_record(work_dir).get("asked") or {} if (work_dir / FILE_NAME).is_file() else {}
    return replace(
        options,
        seed=options.seed if options.seed is not None or seed is None else int(seed),
        total_epochs=options.total_epochs if options.total_epochs is not None else asked.get("total_epochs"),
    )


def refuse_changes(work_dir: Path, cfg: Any, plan: ResumePlan, *, allow: bool) -> list[str]:
    """Compare the config of a resumed run with the one it recorded; the schedules are followed anew if they differ.

    Args:
        work_dir: of the run.
        cfg: of the resumed run, with its hooks.
        plan: changed: ``replays_schedules``.
        allow: ``--allow-changes``.

    Returns:
        Lines about what differs, if it was allowed.

    Raises:
        ConfigError: a setting that decides what is learned differs, and that was not allowed.
    """
    if not (work_dir / FILE_NAME).is_file():
        return []
    record = read_run_record(work_dir)
    try:
        found = config_differences(record["config_text"], cfg, source=str(work_dir / FILE_NAME))
    except (KeyError, ConfigError):
        return ["warning: the config that this run recorded cannot be read here, so it was not compared"]
    differing = [each for each in found if each.changes_training and not _is_expected(each, plan)]
    if any(each.key.startswith(("param_scheduler", "optim_wrapper")) for each in differing):
        plan.replays_schedules = True
    if not differing:
        return []
    shown = [f"{each.key}: {each.old!r} -> {each.new!r}"[:200] for each in differing[:_MOST_SHOWN]]
    if len(differing) > _MOST_SHOWN:
        shown.append(f"and {len(differing) - _MOST_SHOWN} more")
    if allow:
        return ["resuming with other settings, as --allow-changes allows:", *(f"  {line}" for line in shown)]
    raise ConfigError(
        f"--resume: the run in {work_dir} was configured otherwise, so going on would mix two recipes: "
        f"{'; '.join(shown)}. Give the same config and --cfg-options as before, or --allow-changes to mix them."
    )


def _is_expected(difference: Difference, plan: ResumePlan) -> bool:
    if difference.key == "optim_wrapper.optimizer.lr" and plan.keeps_config_rate:
        return True
    if difference.key in _PLANNED or (
        plan.replays_schedules and difference.key.startswith(("param_scheduler", "auto_scale_lr"))
    ):
        return True
    return difference.key.endswith(".type") and {difference.old, difference.new} in EQUIVALENT_TYPES
