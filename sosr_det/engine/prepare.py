"""From a command line to a training that nothing stands against: all that can be refused is refused here."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.engine.acceleration import plan_acceleration
from sosr_det.engine.backbone.source import RANDOM, settle_backbone
from sosr_det.engine.bad_images import apply_bad_image_policy
from sosr_det.engine.checkpoints.choice import Choice
from sosr_det.engine.configs import load_config
from sosr_det.engine.determinism import apply_deterministic
from sosr_det.engine.distribution import apply_accumulation, apply_sync_bn, init_distributed
from sosr_det.engine.exact_engine import use_exact_engine
from sosr_det.engine.folder_lock import hold_folder
from sosr_det.engine.learning_rate import (
    effective_batch_line,
    kept_rate_factor,
    learning_rate_scaling,
    resumed_scaling,
)
from sosr_det.engine.pairing import apply_paired
from sosr_det.engine.parent_run import tell_parent
from sosr_det.engine.publishing import publish_name
from sosr_det.engine.resume.continuity import ResumePlan, configured_setup, plan_resume
from sosr_det.engine.resume.origin import resumed_origin
from sosr_det.engine.resume.start import recall_options, refuse_changes, settle_start
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.setup import apply_data_root, apply_total_epochs, fit_to_device
from sosr_det.engine.train_hooks import add_hooks
from sosr_det.engine.train_options import TrainOptions
from sosr_det.engine.training_data import choose_data
from sosr_det.engine.training_scale import apply_training_scale
from sosr_det.engine.work_dir import claim_work_dir
from sosr_det.errors import ConfigError, SosrError
from sosr_det.registry.names import publishable_name

logger = logging.getLogger("sosr_det")


@dataclass
class PreparedTraining:
    """A training that nothing stands against so far.

    Attributes:
        cfg: complete, with its hooks.
        options: with what a resumed run takes over from its record.
        work_dir: folder of the run; not made yet.
        choice: the checkpoint to go on from, or None.
        name: to publish under, or None.
        plan: of the acceleration.
        parent: what run.json says of the parent run, or None.
        resume_plan: how a resumed run goes on, or None.
    """

    cfg: Any
    options: TrainOptions
    work_dir: Path
    choice: Choice | None
    name: str | None
    plan: Any
    parent: dict[str, Any] | None
    resume_plan: ResumePlan | None


def prepare_training(options: TrainOptions, *, dry_run: bool = False) -> PreparedTraining:
    """Apply the options to the config, and refuse what can be refused before anything is built.

    Args:
        options: of the command line.
        dry_run: leave the files of a run that would be resumed as they are.

    Raises:
        SosrError: what the user can act on.
    """
    if options.registry is not None:
        os.environ["SOSR_REGISTRY"] = str(options.registry)  # the sosr:// loader reads it
    import sosr_det.register  # noqa: F401  names in the config must be known before it loads

    cfg = load_config(options.config, options.cfg_options)
    apply_deterministic(cfg, options.deterministic)  # before anything starts CUDA
    fit_to_device(cfg, options.launcher)
    init_distributed(cfg, options.launcher)
    work_dir = Path(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(options.config).stem)
    cfg.work_dir = str(work_dir)
    if not dry_run:
        hold_folder(work_dir)
    options, choice, lines = settle_start(options, work_dir)
    for line in lines:
        _say(line)
    if choice is not None:
        options = recall_options(options, choice, work_dir)
    _apply_distribution(cfg, options)
    backbone, name, settings = _resolve(cfg, options)
    claim_work_dir(cfg, work_dir, overwrite=options.overwrite)
    apply_paired(cfg, options.paired)
    apply_bad_image_policy(cfg, options.on_bad_image, options.max_bad_images)
    plan = plan_acceleration(cfg, options)
    settings["lr_scaling"] = _say_learning_rate(cfg)
    use_exact_engine(cfg)
    add_hooks(cfg, options, backbone, settings)
    parent, lines = tell_parent(cfg, options.parent, options.overwrite)
    for line in lines:
        _say(line)
    resume_plan = None if choice is None else _plan_resume(cfg, choice, options, settle=not dry_run)
    return PreparedTraining(cfg, options, work_dir, choice, name, plan, parent, resume_plan)


def _plan_resume(cfg: Any, choice: Choice, options: TrainOptions, *, settle: bool) -> ResumePlan:
    """Refuse to go on as another experiment; say from where and how the run goes on."""
    from mmengine.dist import get_world_size, is_main_process

    plan = plan_resume(choice.meta, configured_setup(cfg, get_world_size()), choice.path)
    plan.allows_changes = options.allow_changes
    factor = kept_rate_factor(learning_rate_scaling(cfg, get_world_size()), _began_scaling(cfg))
    plan.keeps_config_rate = factor is not None
    plan.schedules.rate_factor = factor or 1.0
    lines = refuse_changes(Path(cfg.work_dir), cfg, plan, allow=options.allow_changes)
    for line in [*plan.lines, *lines]:
        _say(line)
    cfg.load_from = str(choice.path)
    if settle and is_main_process():
        choice.settle()
    return plan


def _began_scaling(cfg: Any) -> dict[str, Any] | None:
    """How the learning rate of the run that goes on was scaled when it began."""
    work_dir = Path(cfg.work_dir)
    return read_run_record(work_dir).get("lr_scaling") if (work_dir / FILE_NAME).is_file() else None


def _resolve(cfg: Any, options: TrainOptions) -> tuple[dict | None, str | None, dict[str, Any]]:
    """Apply the options to the config; all that can be refused without building anything is refused here."""
    cfg.launcher = options.launcher
    cfg.resume = options.resume
    apply_data_root(cfg, options.data_root, options.cfg_options)
    settings, lines = choose_data(cfg, options.classes, options.select_on)
    for line in lines:
        _say(line)
    apply_total_epochs(cfg, options.total_epochs)
    scale = apply_training_scale(cfg, options.image_scale)
    if scale:
        settings["image_scale"] = scale
    settings["asked"] = {"total_epochs": options.total_epochs}
    if options.save_every is not None:
        cfg.save_every_minutes = options.save_every
    if options.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": options.seed}
    uri, allow, start = options.backbone, list(options.allow), None
    set_depth = options.set_depth
    if set_depth and not options.resume and uri in (None, RANDOM):
        raise ConfigError("--set-depth takes over the depth of the weights that --backbone names; give both.")
    if options.resume:
        start = resumed_origin(cfg, options)
    if start:
        uri, allow = start["settled"], [*start.get("allowed", ()), *allow]
        set_depth = set_depth or bool(start.get("set_depth"))
    name = publish_name(cfg, options.publish, options.publish_as)
    if name:
        publishable_name(name)  # refuse a bad name now, not after 90 epochs
    record, lines = _settle_on_rank_0(cfg, uri, allow, set_depth and uri not in (None, RANDOM))
    for line in lines:
        logger.warning(line)
    if start and record:
        record["uri"] = start["uri"]  # the name that it was asked for by, though the tag may have moved
    elif start and start.get("uri"):
        record = {key: value for key, value in start.items() if key != "settled"}
    return record, name, settings


def _apply_distribution(cfg: Any, options: TrainOptions) -> None:
    import torch
    from mmengine.dist import get_world_size

    line = apply_sync_bn(cfg, options.sync_bn, get_world_size(), on_gpu=torch.cuda.is_available())
    if line:
        _say(line)
    apply_accumulation(cfg, options.accumulate)


def _say_learning_rate(cfg: Any) -> dict[str, Any] | None:
    from mmengine.dist import get_world_size

    scaling = learning_rate_scaling(cfg, get_world_size())
    work_dir = Path(cfg.work_dir)
    if cfg.get("resume") and (work_dir / FILE_NAME).is_file():
        began = read_run_record(work_dir)
        kept, warning = resumed_scaling(scaling, began.get("lr_scaling"), began.get("world_size"))
        if warning or scaling is None:
            if warning:
                _say(f"warning: {warning}")
            return kept
    if scaling is None:
        line = effective_batch_line(cfg, get_world_size())
        if line:
            _say(line)
        return None
    _say(scaling.line())
    return scaling.to_dict()


def _say(line: str) -> None:
    """Print on the main process."""
    from mmengine.dist import is_main_process

    if is_main_process():
        print(line, flush=True)


def _settle_on_rank_0(
    cfg: Any, uri: str | None, allow: Sequence[str], set_depth: bool
) -> tuple[dict | None, list[str]]:
    """Rank 0 resolves names to digests; every rank gets the same result or the same error. Lines are rank 0's."""
    from mmengine.dist import broadcast_object_list, get_dist_info

    rank, world_size = get_dist_info()
    if world_size == 1:
        return settle_backbone(cfg, uri, allow, set_depth=set_depth)
    box: list[Any] = [None]
    if rank == 0:
        try:
            settled = settle_backbone(cfg, uri, allow, set_depth=set_depth)
            box = [("ok", settled, cfg.to_dict())]
        except SosrError as error:
            box = [("error", error, None)]
        except Exception as error:  # the other ranks must hear of it too, or they wait forever
            box = [("error", ConfigError(f"rank 0: {type(error).__name__}: {error}"), None)]
    broadcast_object_list(box, src=0)
    outcome, value, resolved = box[0]
    if outcome == "error":
        raise value
    cfg.model = resolved["model"]  # as a whole: merging would keep what rank 0 removed
    cfg.load_from = resolved.get("load_from")
    return value[0], value[1] if rank == 0 else []
