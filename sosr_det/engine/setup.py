"""From a config and command-line options to a ready mmengine Runner: shared by training and testing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.data.shards.storage import is_url
from sosr_det.engine.configs import bare_type, walk_dicts
from sosr_det.errors import ConfigError, DataError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
VOC_TYPES = ("CheckedVOCDataset", "VOCDataset", "XMLDataset")  # data sets with one XML file per image


def apply_data_root(cfg: Any, data_root: str | Path | None, overrides: Sequence[str] = ()) -> None:
    """Point every data set of the config to ``data_root``, or to ``$SOSR_DATA`` when that is set.

    A ``data_root`` among the ``overrides`` (``--cfg-options``) stands against ``$SOSR_DATA``.

    ``$SOSR_DATA`` may be the data set itself or the folder that holds it under its usual name (``imagenet``,
    ``CUB_200_2011``, ``VOCdevkit``): the last part of the config's own ``data_root``. It may be a URL for shards
    (``ShardedImages``), which is taken as it is.

    Raises:
        DataError: a root that was asked for does not exist, or is a URL and the config reads files.
    """
    usual_name = Path(str(cfg.get("data_root", ""))).name
    set_by_hand = any("data_root" in override.partition("=")[0] for override in overrides)
    asked = data_root if data_root is not None or set_by_hand else os.environ.get("SOSR_DATA")
    if not asked:
        return
    if is_url(str(asked)):
        _point_shards_to(cfg, str(asked))
        return
    root = Path(asked)
    if not root.is_dir():
        origin = "--data-root" if data_root is not None else "$SOSR_DATA"
        raise DataError(
            f"{origin} is {root}, which is not a folder. Give the folder that holds the data set "
            f"({usual_name or 'see the config'}), or make demo data with `sosr-det data demo --out DIR`."
        )
    if usual_name and (root / usual_name).is_dir():
        root = root / usual_name
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for node in walk_dicts(cfg.get(section)):
            if "data_root" in node:
                # MMDetection joins paths with str.join in places, so keep its trailing slash.
                node["data_root"] = f"{root}/"
    _move_evaluators(cfg, root)
    cfg.data_root = f"{root}/"


def _point_shards_to(cfg: Any, url: str) -> None:
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for node in walk_dicts(cfg.get(section)):
            if "data_root" not in node:
                continue
            if bare_type(node.get("type")) != "ShardedImages":
                raise DataError(
                    f"{url} is a URL, and {node.get('type')} reads files. Write shards there (`sosr-det data shard`) "
                    "and use dict(type='ShardedImages'), or give a folder."
                )
            node["data_root"] = url
    cfg.data_root = url


def _move_evaluators(cfg: Any, root: Path) -> None:
    """COCO's evaluators read an annotation file of their own, whose path holds the config's ``data_root`` as text."""
    before = str(cfg.get("data_root") or "").rstrip("/") + "/"
    for section in ("val_evaluator", "test_evaluator"):
        for node in walk_dicts(cfg.get(section)):
            name = node.get("ann_file")
            if before != "/" and isinstance(name, str) and name.startswith(before):
                node["ann_file"] = f"{root}/{name.removeprefix(before).lstrip('/')}"


def apply_classes(cfg: Any, classes: Sequence[str] | None) -> None:
    """Give a VOC-format config its own classes: in every data set, and as the size of every detection head.

    Raises:
        ConfigError: no classes, an empty or repeated name, or a config without a VOC data set.
    """
    if classes is None:
        return
    names = [name.strip() for name in classes]
    if not names or not all(names) or len(set(names)) != len(names):
        raise ConfigError(
            f"--classes needs distinct, non-empty names separated by commas, got {','.join(classes)!r}"
        )
    changed = 0
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for node in walk_dicts(cfg.get(section)):
            if bare_type(node.get("type")) in VOC_TYPES:
                node["metainfo"] = {"classes": tuple(names)}
                changed += 1
    if not changed:
        raise ConfigError(
            "--classes is for VOC-format detection configs; class folders name their classes themselves."
        )
    for node in walk_dicts(cfg.model):
        if "num_classes" in node:
            node["num_classes"] = len(names)


def apply_total_epochs(cfg: Any, total_epochs: int | None) -> None:
    """Shorten or stretch the whole schedule: epochs, and every learning-rate milestone in proportion.

    Raises:
        ConfigError: fewer than one epoch, or a config that does not count epochs.
    """
    if total_epochs is None:
        return
    if total_epochs < 1:
        raise ConfigError(f"--total-epochs must be at least 1, got {total_epochs}")
    old = (cfg.get("train_cfg") or {}).get("max_epochs")
    if not old:
        raise ConfigError("--total-epochs needs a config that trains by epoch (train_cfg.max_epochs).")
    factor = total_epochs / old

    def scaled(epoch: int) -> int:
        return max(1, round(epoch * factor))

    cfg.train_cfg.max_epochs = total_epochs
    schedulers = cfg.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if not scheduler.get("by_epoch", True):
            continue
        if scheduler.get("end") == old:
            scheduler["end"] = total_epochs
        elif scheduler.get("end", 0) > total_epochs:
            scheduler["end"] = scaled(scheduler["end"])
        if scheduler.get("begin", 0) >= total_epochs:
            scheduler["begin"] = scaled(scheduler["begin"]) - 1
        for key in ("T_max", "step_size"):
            if key in scheduler:
                scheduler[key] = scaled(scheduler[key])
        if "milestones" in scheduler:
            scheduler["milestones"] = [scaled(milestone) for milestone in scheduler["milestones"]]


def fit_to_device(cfg: Any, launcher: str) -> None:
    """Without CUDA: gloo instead of NCCL, no pinned memory (it warns and does nothing). No options for absent workers.

    Raises:
        ConfigError: unknown launcher.
    """
    import torch

    if launcher not in LAUNCHERS:
        raise ConfigError(f"--launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(section)
        if isinstance(loader, dict) and not loader.get("num_workers", 0):
            for option in (
                "persistent_workers",
                "prefetch_factor",
            ):  # torch refuses them where there are no workers
                loader.pop(option, None)
    if torch.cuda.is_available():
        return
    if "env_cfg" in cfg and "dist_cfg" in cfg.env_cfg:
        cfg.env_cfg.dist_cfg.backend = "gloo"
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if isinstance(cfg.get(section), dict):
            cfg[section].pop("pin_memory", None)


def build_runner(cfg: Any, *, for_training: bool, plan: Any = None) -> Any:
    """``Runner.from_cfg`` with its data sets built at once, so that a mistake in the config is told as one.

    Args:
        cfg: complete.
        for_training: build the loops of training, or the one of testing.
        plan: :class:`sosr_det.engine.acceleration.Plan` of a training; None trains as plain mmengine does.

    Raises:
        ConfigError: an unknown type, a wrong argument.
        DataError: from the data sets.
    """
    from mmengine.runner import Runner

    from sosr_det.data.loader_workers import shield_workers
    from sosr_det.engine.acceleration.runner import accelerated
    from sosr_det.engine.distribution import gather_in_memory
    from sosr_det.engine.safe_files import refuse_pickled_arrays
    from sosr_det.engine.telemetry.console import TrainingRunner

    refuse_pickled_arrays(cfg)
    try:
        kind = TrainingRunner if for_training else Runner
        runner = (kind if plan is None else accelerated(kind, plan)).from_cfg(cfg)
        if for_training:
            # mmengine builds the loops, and with them the data sets, at first use.
            loops = [runner.train_loop, runner.val_loop]
        else:
            loops = [runner.test_loop]
        for loop in loops:
            if loop is not None:
                shield_workers(loop.dataloader)
                gather_in_memory(getattr(loop, "evaluator", None))
    except FileNotFoundError as error:
        text = _missing_annotations(cfg, error)
        if text is None:
            raise
        raise DataError(text) from error
    except (KeyError, TypeError, AttributeError, ValueError, AssertionError, ImportError) as error:
        text = error.args[0] if error.args else error
        raise ConfigError(f"the config does not build: {text}") from error
    return runner


def _missing_annotations(cfg: Any, error: FileNotFoundError) -> str | None:
    """A sentence about an annotation file that a data set or an evaluator of the config names; None for other files."""
    if error.filename is None:
        return None
    missing = os.path.normpath(os.fspath(error.filename))
    for section in (
        "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator",
    ):  # fmt: skip
        for node in walk_dicts(cfg.get(section)):
            name = node.get("ann_file")
            root = str(node.get("data_root") or "")
            if not isinstance(name, str) or os.path.normpath(os.path.join(root, name)) != missing:
                continue
            under = f" under its data_root {root}" if root else ""
            sosr_data = os.environ.get("SOSR_DATA")
            replaced = ""
            if sosr_data and root and Path(root).is_relative_to(sosr_data):
                replaced = " $SOSR_DATA replaced the data_root that the config names."
            return (
                f"there is no {missing}: the annotation file of the config's {section}{under}.{replaced} Give the "
                "folder that holds this data set with --data-root or $SOSR_DATA, or set data_root in the config."
            )
    return None


def require_disk_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to start a run whose checkpoints cannot be stored.

    Raises:
        ConfigError: names the folder, what is free and what is needed.
    """
    existing = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ConfigError(
            f"not enough disk space in {folder}: {free / 2**20:.0f} MiB are free, {what} needs about "
            f"{needed_bytes / 2**20:.0f} MiB. Free some, or choose another --work-dir."
        )
