"""Training of any stage: one Runner, the contracts checked, a record left, backbone or detector published."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.places import find_backbones
from sosr_det.engine.backbone.source import RANDOM, settle_backbone
from sosr_det.engine.configs import load_config, walk_dicts
from sosr_det.engine.publishing import publish_name, publish_run
from sosr_det.engine.run_record import FILE_NAME, read_run_record, run_files, write_run_record
from sosr_det.engine.setup import (
    apply_classes,
    apply_data_root,
    apply_total_epochs,
    build_runner,
    fit_to_device,
    init_distributed,
    require_disk_space,
)
from sosr_det.errors import CheckpointError, ConfigError, SosrError
from sosr_det.registry.names import publishable_name

logger = logging.getLogger("sosr_det")

# Bytes kept per parameter byte: weights and momentum, in the last, the best and the file being written.
_CHECKPOINT_FACTOR = 6
_LONGEST_PATH = 4096  # characters
_TERMINATED = 128 + signal.SIGTERM  # exit code, as a shell reports it


@dataclass
class TrainOptions:
    """What the command line can change about a config; see ``sosr-det train --help``."""

    config: str
    work_dir: Path | None = None
    data_root: Path | None = None
    backbone: str | None = None
    allow: Sequence[str] = ()
    set_depth: bool = False
    classes: Sequence[str] | None = None
    seed: int | None = None
    total_epochs: int | None = None
    resume: bool = False
    overwrite: bool = False
    amp: bool = False
    dynamics: bool = False
    publish: bool = True
    publish_as: str | None = None
    registry: str | Path | None = None
    launcher: str = "none"
    cfg_options: Sequence[str] = field(default_factory=list)


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
    backbone, name = _resolve(cfg, options)
    work_dir = Path(cfg.work_dir)
    _claim_work_dir(cfg, work_dir, options)
    _add_hooks(cfg, options, backbone)
    created = _make_folder(work_dir)
    runner = None
    # torchrun and Slurm end processes with SIGTERM: unwind as for Ctrl-C, so that the record says so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        runner = build_runner(cfg, for_training=True)
        needed = _CHECKPOINT_FACTOR * sum(p.numel() * p.element_size() for p in runner.model.parameters())
        require_disk_space(work_dir, needed, "keeping the checkpoints")
        runner.train()
    except BaseException as error:
        worked = runner is not None and runner.iter > 0
        for hook in runner.hooks if runner is not None else ():
            if hasattr(hook, "release"):  # the backbone's entry is not used any more
                hook.release()
        interrupted = _is_interrupt(error)
        remove = created and not worked
        _clean_up_after(error, work_dir, remove=remove, status="interrupted" if interrupted else "failed")
        if not interrupted:
            raise
        advice = _after_interrupt(work_dir, removed=remove)
        if isinstance(error, SystemExit):
            if runner is None or runner.rank == 0:
                print(f"interrupted; {advice}", file=sys.stderr)
            raise
        raise KeyboardInterrupt(advice) from error
    if runner.rank == 0:
        _finish(work_dir, name)
    return work_dir


def _resolve(cfg: Any, options: TrainOptions) -> tuple[dict | None, str | None]:
    """Apply the options to the config; all that can be refused without building anything is refused here."""
    stem = Path(options.config).stem
    cfg.work_dir = str(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / stem)
    cfg.launcher = options.launcher
    cfg.resume = options.resume
    apply_data_root(cfg, options.data_root, options.cfg_options)
    apply_classes(cfg, options.classes)
    apply_total_epochs(cfg, options.total_epochs)
    if options.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": options.seed}
    if options.amp:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--amp needs a CUDA device; leave it out to train in fp32 on the CPU.")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    uri, allow, start = options.backbone, list(options.allow), None
    set_depth = options.set_depth
    if set_depth and not options.resume and uri in (None, RANDOM):
        raise ConfigError("--set-depth takes over the depth of the weights that --backbone names; give both.")
    if options.resume:
        start = _resumed_start(cfg, options)
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
    return record, name


def _resumed_start(cfg: Any, options: TrainOptions) -> dict | None:
    """A resumed run continues from its own checkpoint and stays the child of the backbone it started from.

    Returns:
        The record of that backbone with ``settled``, the URI to put under the config again, which is None for a file
        that is gone: a resumed run does not need it. None where there was no backbone.
    """
    cfg.load_from = None
    work_dir = Path(cfg.work_dir)
    if not (work_dir / FILE_NAME).is_file():
        return None
    start = read_run_record(work_dir).get("backbone")
    if options.backbone and options.backbone not in ((start or {}).values() if start else ("random",)):
        raise ConfigError(
            f"--resume: the run in {work_dir} started from {start['uri'] if start else 'random weights'}; "
            f"--backbone {options.backbone} would be another run. Leave it out, or use another --work-dir."
        )
    if not start:
        return {"settled": RANDOM} if options.backbone == RANDOM else None
    settled = start.get("pinned_uri") or start["uri"]
    if "://" not in settled and not Path(settled).is_file():
        for backbone in find_backbones(cfg.model):  # the config's own would be another one
            backbone.settings["init_cfg"] = None
        settled = None
    return {**start, "settled": settled}


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


def _claim_work_dir(cfg: Any, work_dir: Path, options: TrainOptions) -> None:
    """Never overwrite a run by accident, never "resume" from nothing."""
    if options.overwrite:
        replaced = {path.resolve() for path in run_files(work_dir)}
        for node in walk_dicts(cfg.model):
            source = node.get("checkpoint")
            if isinstance(source, str) and "://" not in source and Path(source).resolve() in replaced:
                raise ConfigError(
                    f"--overwrite would remove {source}, which this run starts from. Use another --work-dir."
                )
    if options.resume and options.overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it: choose one.")
    if options.resume:
        _require_resumable(work_dir)
    elif (work_dir / FILE_NAME).exists() and not options.overwrite:
        record = read_run_record(work_dir)
        raise ConfigError(
            f"{work_dir} already holds a run ({record['status']}, {len(record['epochs'])} epochs recorded). "
            "Use --resume to continue it, another --work-dir to keep both, or --overwrite to replace it."
        )
    elif work_dir.exists() and not work_dir.is_dir():
        raise ConfigError(f"the work directory {work_dir} is a file.")


def _require_resumable(work_dir: Path) -> None:
    pointer = work_dir / "last_checkpoint"
    if not pointer.is_file():
        raise CheckpointError(
            f"--resume: {pointer} does not exist, so there is nothing to resume in {work_dir}. "
            "Leave out --resume to start, or name the run's folder with --work-dir."
        )
    with pointer.open(errors="replace") as stream:
        text = stream.read(_LONGEST_PATH + 1).strip()
    if len(text) > _LONGEST_PATH or any(len(part) > 255 for part in Path(text).parts):
        raise CheckpointError(f"--resume: {pointer} holds no path, but a text that begins with {text[:40]!r}.")
    target = Path(text)
    local = work_dir / target.name
    if local.is_file():
        if local.resolve() != target.resolve():  # the folder was moved or copied: never touch the original
            pointer.write_text(str(local.resolve()))
    elif not target.is_file():
        raise CheckpointError(f"--resume: {pointer} names {str(target)!r}, which is not a file.")


def _add_hooks(cfg: Any, options: TrainOptions, backbone: dict | None) -> None:
    """The hooks that every run carries, whichever config it came from."""
    hooks = list(cfg.get("custom_hooks") or [])
    present = {hook.get("type") for hook in hooks}
    for hook in (
        "DataContractHook",
        "BackboneContractHook",
        "DivergenceHook",
        "LossEpochHook",
        "RankZeroBuffersHook",
        "ThroughputHook",
        "PlainCheckpointHook",
    ):
        if hook not in present:
            hooks.append({"type": hook})
    allowed = (backbone or {}).get("allowed") or options.allow
    for hook in hooks:
        if hook.get("type") == "BackboneContractHook" and allowed:
            hook["allow"] = [*dict.fromkeys([*hook.get("allow", ()), *allowed])]
    if options.dynamics and "TrainingDynamicsHook" not in present:
        if cfg.get("stage", "detection") == "detection":
            raise ConfigError(
                "--dynamics records how a classifier learns; a detection run has no such figures."
            )
        hooks.append({"type": "TrainingDynamicsHook"})
    hooks.append(
        {
            "type": "RunRecordHook",
            "stage": cfg.get("stage", "detection"),
            "config_name": Path(options.config).stem,
            "backbone": backbone,
            "replace_run": options.overwrite,
        }
    )
    cfg.custom_hooks = hooks


def _make_folder(work_dir: Path) -> bool:
    """Make the work directory on the main process; True when this run made it and so may remove it."""
    from mmengine.dist import is_main_process

    if not is_main_process():
        return False
    try:
        work_dir.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(
            f"the work directory {work_dir} cannot be made: {error}. Choose another --work-dir."
        ) from error
    return True


def _is_interrupt(error: BaseException) -> bool:
    """Ctrl-C or SIGTERM; also where a library turned it into another error, as mmengine's Config.pretty_text does."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt) or (
            isinstance(cause, SystemExit) and cause.code == _TERMINATED
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _after_interrupt(work_dir: Path, *, removed: bool) -> str:
    if (work_dir / "last_checkpoint").is_file():
        return "continue with --resume"
    if removed or not (work_dir / FILE_NAME).exists():
        return "no step was made and nothing was kept, start again"
    return "no checkpoint was saved yet, start again with --overwrite"


def _clean_up_after(error: BaseException, work_dir: Path, *, remove: bool, status: str) -> None:
    """Mark a run that had begun as failed or interrupted; remove a folder that holds nothing worth keeping."""
    from mmengine.dist import is_main_process

    if not is_main_process():
        return
    if remove:
        # Close the log file first: it lives in the folder that goes.
        for handler in logging.getLogger("mmengine").handlers:
            handler.close()
        _forget_visualizers()
        shutil.rmtree(work_dir, ignore_errors=True)
        return
    if (work_dir / FILE_NAME).exists():
        record = read_run_record(work_dir)
        if record["status"] == "running":
            record.update(status=status, error=f"{type(error).__name__}: {error}"[:2000])
            write_run_record(work_dir, record)


def _forget_visualizers() -> None:
    """mmengine keeps visualizers by config name and second: the next run must not get a removed one's."""
    from mmengine.visualization import Visualizer

    for cls in (Visualizer, *Visualizer.__subclasses__()):
        cls._instance_dict.clear()


def _finish(work_dir: Path, name: str | None) -> None:
    record = read_run_record(work_dir)
    best = record.get("best")
    if best:
        print(
            f"best epoch {best['epoch']}: {best['metric']} {best['value']:.4f} ({work_dir / str(best['checkpoint'])})"
        )
    print(f"run record: {work_dir / FILE_NAME}")
    if name:
        entry = publish_run(work_dir, name)
        print(f"published {entry['uri']}\n  {entry['pinned_uri']}")
