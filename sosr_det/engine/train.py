"""Training of any stage: one Runner, the contracts checked, a record left, backbone or detector published."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.acceleration import plan_acceleration
from sosr_det.engine.backbone.source import RANDOM, settle_backbone
from sosr_det.engine.config_cost import formatted_once
from sosr_det.engine.configs import load_config
from sosr_det.engine.distribution import apply_accumulation, apply_sync_bn, init_distributed
from sosr_det.engine.learning_rate import learning_rate_scaling, resumed_scaling
from sosr_det.engine.pairing import apply_paired
from sosr_det.engine.publishing import publish_name, publish_run
from sosr_det.engine.resumed_start import resumed_start, warn_of_drift
from sosr_det.engine.run_record import (
    FILE_NAME,
    kept_checkpoint,
    read_run_record,
)
from sosr_det.engine.setup import (
    apply_data_root,
    apply_total_epochs,
    build_runner,
    fit_to_device,
    require_disk_space,
)
from sosr_det.engine.signals import sigterm_unwinds
from sosr_det.engine.train_hooks import add_hooks
from sosr_det.engine.train_options import TrainOptions
from sosr_det.engine.training_data import choose_data
from sosr_det.engine.work_dir import (
    after_interrupt,
    claim_work_dir,
    clean_up_after,
    is_interrupt,
    make_folder,
)
from sosr_det.errors import ConfigError, SosrError
from sosr_det.registry.names import publishable_name

logger = logging.getLogger("sosr_det")

# Bytes kept per parameter byte: weights and momentum, in the last, the best and the file being written.
_CHECKPOINT_FACTOR = 6


@sigterm_unwinds()  # so that the record says so
@formatted_once()
def run_training(options: TrainOptions) -> Path:
    """Train, record and publish; returns the work directory.

    A run that fails before its first step leaves no new work directory behind.

    Raises:
        SosrError: whatever the user can act on; see the subclasses.
    """
    if options.registry is not None:
        os.environ["SOSR_REGISTRY"] = str(options.registry)  # the sosr:// loader reads it
    import sosr_det.register  # noqa: F401  names in the config must be known before it loads

    cfg = load_config(options.config, options.cfg_options)
    fit_to_device(cfg, options.launcher)
    init_distributed(cfg, options.launcher)
    _apply_distribution(cfg, options)
    backbone, name, settings = _resolve(cfg, options)
    work_dir = Path(cfg.work_dir)
    claim_work_dir(cfg, work_dir, resume=options.resume, overwrite=options.overwrite)
    apply_paired(cfg, options.paired)
    plan = plan_acceleration(cfg, options)
    settings["lr_scaling"] = _say_learning_rate(cfg)
    add_hooks(cfg, options, backbone, settings)
    created = make_folder(work_dir)
    runner = None
    try:
        runner = build_runner(cfg, for_training=True, plan=plan)
        needed = _CHECKPOINT_FACTOR * sum(p.numel() * p.element_size() for p in runner.model.parameters())
        require_disk_space(work_dir, needed, "keeping the checkpoints")
        with plan.applied_to(runner):
            runner.train()
    except BaseException as error:
        worked = runner is not None and runner.iter > 0
        for hook in runner.hooks if runner is not None else ():
            if hasattr(hook, "release"):  # the backbone's entry is not used any more
                hook.release()
        interrupted = is_interrupt(error)
        remove = created and not worked
        clean_up_after(error, work_dir, remove=remove, status="interrupted" if interrupted else "failed")
        if not interrupted:
            raise
        advice = after_interrupt(work_dir, removed=remove)
        if isinstance(error, SystemExit):
            if runner is None or runner.rank == 0:
                print(f"interrupted; {advice}", file=sys.stderr)
            raise
        raise KeyboardInterrupt(advice) from error
    if runner.rank == 0:
        _finish(work_dir, name)
    return work_dir


def _resolve(cfg: Any, options: TrainOptions) -> tuple[dict | None, str | None, dict[str, Any]]:
    """Apply the options to the config; all that can be refused without building anything is refused here."""
    stem = Path(options.config).stem
    cfg.work_dir = str(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / stem)
    cfg.launcher = options.launcher
    cfg.resume = options.resume
    apply_data_root(cfg, options.data_root, options.cfg_options)
    settings, lines = choose_data(cfg, options.classes, options.select_on)
    for line in lines:
        _say(line)
    apply_total_epochs(cfg, options.total_epochs)
    if options.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": options.seed}
    uri, allow, start = options.backbone, list(options.allow), None
    set_depth = options.set_depth
    if set_depth and not options.resume and uri in (None, RANDOM):
        raise ConfigError("--set-depth takes over the depth of the weights that --backbone names; give both.")
    if options.resume:
        start = resumed_start(cfg, options)
    if start:
        uri, allow = start["settled"], [*start.get("allowed", ()), *allow]
        set_depth = set_depth or bool(start.get("set_depth"))
    name = publish_name(cfg, options.publish, options.publish_as)
    if name:
        publishable_name(name)  # refuse a bad name now, not after 90 epochs
    record, lines = _settle_on_rank_0(cfg, uri, allow, set_depth and uri not in (None, RANDOM))
    for line in lines:
        logger.warning(line)
    if options.resume:
        warn_of_drift(cfg)
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


def _finish(work_dir: Path, name: str | None) -> None:
    record = read_run_record(work_dir)
    best = record.get("best")
    if best:
        place = work_dir / best["checkpoint"] if best["checkpoint"] else "its checkpoint is missing"
        print(f"best epoch {best['epoch']}: {best['metric']} {best['value']:.4f} ({place})")
    elif (record.get("selection") or {}).get("on") == "last":
        print(f"last epoch {record['epochs'][-1]['epoch']}: {kept_checkpoint(work_dir, record)}")
    print(f"run record: {work_dir / FILE_NAME}")
    if name:
        entry = publish_run(work_dir, name)
        print(f"published {entry['uri']}\n  {entry['pinned_uri']}")
