"""What can be refused before the first of many trainings: whatever would make all of them fail, or not comparable."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.source import settle_backbone
from sosr_det.engine.compare.arms import Arm
from sosr_det.engine.found_classes import SCAN
from sosr_det.engine.selection import apply_selection, dataset_leaves
from sosr_det.engine.setup import VOC_TYPES, apply_classes, apply_data_root, apply_total_epochs
from sosr_det.errors import ConfigError, DataError

_SECTIONS = ("train_dataloader", "val_dataloader", "test_dataloader")


def check_arms(configs: Sequence[tuple[str, Any]], arms: Sequence[Arm], options: Any) -> None:
    """Apply to copies of the configs what every run will apply to its own.

    Args:
        configs: (name, ``mmengine.config.Config``), which are not changed.
        arms: the arms, whose weights are tried under their configs.
        options: :class:`~sosr_det.engine.compare.compare.CompareOptions`.

    Raises:
        ConfigError: an option that a config refuses, or configs that are tested on different data.
        DataError: data that are not there.
        SosrError: weights that do not fit.
    """
    applied = {name: _applied(name, cfg, options) for name, cfg in configs}
    _require_same_tests(applied)
    for arm in arms:
        settle_backbone(copy.deepcopy(applied[arm.config]), arm.weights, options.allow)


def _applied(name: str, cfg: Any, options: Any) -> Any:
    cfg = copy.deepcopy(cfg)
    apply_data_root(cfg, options.data_root, options.cfg_options)
    if options.classes is not None and options.classes.strip() != SCAN:
        apply_classes(cfg, options.classes.split(","))
    apply_total_epochs(cfg, options.total_epochs)
    apply_selection(cfg, options.select_on)
    for section in _SECTIONS:
        for leaf in _voc_leaves(cfg, section):
            path = Path(str(leaf.get("data_root") or ""), str(leaf.get("ann_file") or ""))
            if not path.is_file():
                raise DataError(
                    f"{name}: {section} lists its images in {path}, which is not there. Give the folder that holds the "
                    "data set with --data-root or $SOSR_DATA."
                )
    return cfg


def _require_same_tests(applied: dict[str, Any]) -> None:
    """Twins are compared image by image, so they must be tested on the same ones."""
    tested = {
        name: [_identity(leaf) for leaf in _leaves(cfg, "test_dataloader")] for name, cfg in applied.items()
    }
    first, *others = tested
    for other in others:
        if tested[other] != tested[first]:
            raise ConfigError(
                f"{first} and {other} are tested on different data ({tested[first]} and {tested[other]}), so nothing "
                "could be said about their difference. Compare configs of one data set."
            )


def _identity(leaf: dict[str, Any]) -> tuple[str, ...]:
    classes = (leaf.get("metainfo") or {}).get("classes")
    path = Path(str(leaf.get("data_root") or ""), str(leaf.get("ann_file") or leaf.get("split") or ""))
    return (str(leaf["type"]), str(path), str(classes and list(classes)))


def _voc_leaves(cfg: Any, section: str) -> list[dict[str, Any]]:
    return [leaf for leaf in _leaves(cfg, section) if str(leaf["type"]).rpartition(".")[2] in VOC_TYPES]


def _leaves(cfg: Any, section: str) -> list[dict[str, Any]]:
    return list(dataset_leaves((cfg.get(section) or {}).get("dataset")))
