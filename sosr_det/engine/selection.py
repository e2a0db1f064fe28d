"""Which epoch of a run is kept as its result, and on which images it was chosen: ``train --select-on``.

A score of the test set is an honest estimate only if nothing was chosen by looking at it. So by default the epoch is
chosen on images that are neither trained on nor tested on.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from sosr_det.engine.configs import bare_type, walk_dicts
from sosr_det.engine.dataset_lists import dataset_leaves, list_names, section_leaves
from sosr_det.engine.recorded_config import recorded_config
from sosr_det.engine.run_record import FILE_NAME
from sosr_det.errors import ConfigError

CHOICES = ("val", "test", "last")
HOLDOUT_FRACTION = 0.05  # of the training images, where the config names none

_VOC_TYPE = "CheckedVOCDataset"
_METRIC = ("VOCDevkitMetric", "voc/map_11point")


def apply_selection(cfg: Any, choice: str | None) -> tuple[dict[str, Any], list[str]]:
    """Arrange a config's training and validation data for a way of choosing the epoch.

    - ``val``: on a validation set of its own: the config's, where it is neither trained nor tested on; else a part
      held out of the training lists (``holdout``), which is not trained on;
    - ``test``: on the test set, after every validation interval, as the paper presumably did; trains on all images;
    - ``last``: none is chosen, the last epoch is kept; trains on all images. A validation set of its own still is
      evaluated, a held-out part is not, since it is trained on;
    - None: ``val`` where the config's data allow it and it keeps a best epoch, else what the config does, which is
      recorded.

    Where ``val`` or ``test`` is asked for and the config keeps no best epoch (``default_hooks.checkpoint.save_best``),
    it is chosen by 11-point mAP.

    Args:
        cfg: ``mmengine.config.Config``, changed in place.
        choice: one of :data:`CHOICES`, or None.

    Returns:
        ``dict(on=..., evaluated_on=..., holdout_fraction=..., asked=...)`` for the run record: ``on`` is ``val``,
        ``test``, ``last``, or ``none`` for a run without a validation; and lines to print.

    Raises:
        ConfigError: an unknown choice, or one that this config's data do not allow.
    """
    if choice is not None and choice not in CHOICES:
        raise ConfigError(f"--select-on must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice is None:
        choice = "val" if _can_select_on_val(cfg) and _checkpoint_hook(cfg).get("save_best") else None
        asked = None
    else:
        asked = choice
    if choice == "val":
        record = _select_on_val(cfg)
    elif choice == "test":
        record = _select_on_test(cfg)
    elif choice == "last":
        record = _keep_last(cfg)
    else:
        record = _as_configured(cfg)
    if choice in ("val", "test"):
        _choose_by_something(cfg, choice)
    record["asked"] = asked
    return record, _lines(record)


def _lines(record: dict[str, Any]) -> list[str]:
    if record["on"] == "test" and record["asked"]:
        return [
            "--select-on test: the best epoch is chosen by its score on the test set, so that score is no unbiased "
            "estimate any more; run.json says so. The default, val, keeps the test set for `sosr-det test`."
        ]
    if record["on"] == "last" and record["holdout_fraction"]:
        return [
            f"{record['holdout_fraction']:.0%} of the training images are held out, as the config says, and no epoch "
            "is chosen by them, since it has no default_hooks.checkpoint.save_best: the last one is kept "
            "(--select-on last trains on all, --select-on val chooses)"
        ]
    if record["on"] == "last" and record["asked"]:
        return ["--select-on last: no epoch is chosen, the last one is kept"]
    if record.get("holdout_fraction"):
        return [
            f"{record['holdout_fraction']:.0%} of the training images are held out to choose the epoch "
            "(--select-on val; test or last train on all)"
        ]
    return []


# ---- the choices ---------------------------------------------------------------------------------------------------


def _select_on_val(cfg: Any) -> dict[str, Any]:
    if _has_own_val(cfg):
        _use_whole(cfg, "train_dataloader")
        _use_whole(cfg, "val_dataloader")  # an inherited holdout
        return {"on": "val", "evaluated_on": _names(cfg, "val_dataloader"), "holdout_fraction": None}
    leaves = list(_voc_leaves(cfg.get("train_dataloader")))
    if not leaves:
        raise ConfigError(
            "--select-on val: this config has no validation set apart from its test set, and images can be held out "
            f"of {_VOC_TYPE} only (its training data are {', '.join(_types(cfg, 'train_dataloader')) or 'not named'}). "
            "Use --select-on test, which the run record will say, or --select-on last, or give the config a "
            "val_dataloader with other images."
        )
    if not cfg.get("val_evaluator") and not cfg.get("test_evaluator"):
        raise ConfigError("--select-on val: the config has no val_evaluator to choose by.")
    fraction = next((leaf["holdout"]["fraction"] for leaf in leaves if leaf.get("holdout")), HOLDOUT_FRACTION)
    pipeline = _test_pipeline(cfg)
    parts = []
    for leaf in leaves:
        leaf["holdout"] = {"fraction": fraction, "part": "train"}
        part = deepcopy(leaf)
        part.update(
            holdout={"fraction": fraction, "part": "val"}, test_mode=True, pipeline=deepcopy(pipeline)
        )
        part.pop("filter_cfg", None)  # nothing is left out of an evaluation, and small boxes count
        parts.append(part)
    dataset = parts[0]
    if len(parts) > 1:
        # VOC2007 and VOC2012 differ in the metainfo's dataset_type, which ConcatDataset compares.
        dataset = {"type": "ConcatDataset", "ignore_keys": ["dataset_type"], "datasets": parts}
    _validate_on(cfg, dataset, "test_evaluator")
    return {"on": "val", "evaluated_on": _names(cfg, "val_dataloader"), "holdout_fraction": fraction}


def _select_on_test(cfg: Any) -> dict[str, Any]:
    if not (cfg.get("test_dataloader") or {}).get("dataset"):
        raise ConfigError("--select-on test: the config has no test_dataloader.")
    _use_whole(cfg, "train_dataloader")
    _validate_on(cfg, deepcopy(cfg.test_dataloader.dataset), "test_evaluator")
    return {"on": "test", "evaluated_on": _names(cfg, "test_dataloader"), "holdout_fraction": None}


def _keep_last(cfg: Any) -> dict[str, Any]:
    held_out = _is_held_out(cfg)
    _use_whole(cfg, "train_dataloader")
    if held_out or (_trains_on_val(cfg) and cfg.get("val_dataloader")):
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    checkpoint = _checkpoint_hook(cfg)
    for key in ("save_best", "rule"):
        checkpoint.pop(key, None)
    return {"on": "last", "evaluated_on": _names(cfg, "val_dataloader"), "holdout_fraction": None}


def _as_configured(cfg: Any) -> dict[str, Any]:
    """What a config does by itself, by name."""
    names = _names(cfg, "val_dataloader")
    if not cfg.get("val_dataloader"):
        on = "none"
    elif not _checkpoint_hook(cfg).get("save_best"):
        on = "last"
    else:
        on = "test" if _same_data(cfg, "val_dataloader", "test_dataloader") else "val"
    fraction = next(
        (
            leaf["holdout"]["fraction"]
            for leaf in _voc_leaves(cfg.get("train_dataloader"))
            if _part(leaf) == "train"
        ),
        None,
    )
    return {"on": on, "evaluated_on": names, "holdout_fraction": fraction}


def _checkpoint_hook(cfg: Any) -> dict:
    return (cfg.get("default_hooks") or {}).get("checkpoint") or {}


def _choose_by_something(cfg: Any, choice: str) -> None:
    """Make the checkpoint hook keep the best epoch where the config does not.

    Raises:
        ConfigError: the evaluator's best score has no name known here.
    """
    from mmengine.config import ConfigDict

    hook = _checkpoint_hook(cfg)
    if hook.get("save_best"):
        return
    types = sorted(
        {bare_type(node.get("type")) for node in walk_dicts(cfg.get("val_evaluator")) if node.get("type")}
    )
    if _METRIC[0] not in types:
        raise ConfigError(
            f"--select-on {choice}: nothing chooses an epoch, since the config has no "
            f"default_hooks.checkpoint.save_best, and the scores of {', '.join(types) or 'no evaluator'} are not known "
            "here. Name one with --cfg-options default_hooks.checkpoint.save_best=NAME "
            "default_hooks.checkpoint.rule=greater, or use --select-on last."
        )
    hooks = cfg.get("default_hooks") or {}
    hook = {"type": "CheckpointHook", "interval": 1, **hook, "save_best": _METRIC[1], "rule": "greater"}
    cfg.default_hooks = ConfigDict({**hooks, "checkpoint": hook})


def keep_recorded_data(cfg: Any, began: dict[str, Any]) -> dict[str, Any]:
    """For a run that is resumed and was begun before selections were recorded: train on all images, as it did.

    Validation and what keeps the best epoch are taken from the config in the record.

    Args:
        cfg: changed in place.
        began: the run's record.

    Returns:
        As :func:`apply_selection`, with ``asked`` None.

    Raises:
        ConfigError: the recorded config cannot be read.
    """
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401  what the recorded sections name must be registered
    from mmengine.config import ConfigDict

    recorded = recorded_config(
        str(began.get("config_text") or ""),
        f"{cfg.work_dir}/{FILE_NAME}",
        ("val_dataloader", "val_evaluator", "val_cfg"),
    )
    _use_whole(cfg, "train_dataloader")
    for key in ("val_dataloader", "val_evaluator", "val_cfg"):
        cfg[key] = deepcopy(recorded.get(key))
    if cfg.get("val_dataloader"):
        for leaf in _voc_leaves(cfg.val_dataloader):  # the data may have moved, and --data-root says where to
            for current in section_leaves(cfg, "test_dataloader"):
                if current.get("ann_file") == leaf.get("ann_file") and current.get("data_root"):
                    leaf["data_root"] = current["data_root"]
    before = _checkpoint_hook(recorded)
    hook = {key: value for key, value in _checkpoint_hook(cfg).items() if key not in ("save_best", "rule")}
    hook |= {key: before[key] for key in ("save_best", "rule") if before.get(key)}
    cfg.default_hooks = ConfigDict(
        {**(cfg.get("default_hooks") or {}), "checkpoint": {"type": "CheckpointHook", **hook}}
    )
    return {**_as_configured(cfg), "asked": None}


def _use_whole(cfg: Any, section: str) -> None:
    for leaf in _voc_leaves(cfg.get(section)):
        leaf.pop("holdout", None)


def _validate_on(cfg: Any, dataset: dict, evaluator: str) -> None:
    """Put a data set under validation; its loader and loop are the test's where the config has none."""
    from mmengine.config import ConfigDict

    if not cfg.get("val_dataloader"):
        cfg.val_dataloader = deepcopy(cfg.test_dataloader)
    loader = cfg.val_dataloader
    loader["dataset"] = ConfigDict(dataset)
    if cfg.get(evaluator):
        cfg.val_evaluator = deepcopy(cfg[evaluator])
    if not cfg.get("val_cfg"):
        cfg.val_cfg = {"type": "ValLoop"}


# ---- what a config's data are --------------------------------------------------------------------------------------


def _can_select_on_val(cfg: Any) -> bool:
    if cfg.get("stage", "detection") != "detection" or not cfg.get("test_dataloader"):
        return False
    return _has_own_val(cfg) or any(True for _ in _voc_leaves(cfg.get("train_dataloader")))


def _part(leaf: dict) -> str | None:
    return (leaf.get("holdout") or {}).get("part")


def _is_held_out(cfg: Any) -> bool:
    return any(leaf.get("holdout") for leaf in _voc_leaves(cfg.get("val_dataloader")))


def _has_own_val(cfg: Any) -> bool:
    """Whether validation has images of its own: neither the test set's nor those that are trained on."""
    if not cfg.get("val_dataloader"):
        return False
    return not _same_data(cfg, "val_dataloader", "test_dataloader") and not _trains_on_val(cfg)


def _trains_on_val(cfg: Any) -> bool:
    return bool(list_names(cfg, "val_dataloader") & list_names(cfg, "train_dataloader"))


def _same_data(cfg: Any, one: str, other: str) -> bool:
    first, second = list_names(cfg, one), list_names(cfg, other)
    return bool(first & second) if first and second else first == second


def _names(cfg: Any, section: str) -> list[str]:
    """Short names of a section's data sets for people: list files where there are any, else types and splits."""
    names = []
    for leaf in dataset_leaves((cfg.get(section) or {}).get("dataset")):
        name = leaf.get("ann_file") or " ".join(
            str(part) for part in (bare_type(leaf.get("type")), leaf.get("split")) if part
        )
        part = _part(leaf)
        names.append(f"{name} ({part} part)" if part else str(name))
    return names


def _types(cfg: Any, section: str) -> list[str]:
    return sorted(
        {bare_type(leaf.get("type")) for leaf in dataset_leaves((cfg.get(section) or {}).get("dataset"))}
    )


def _voc_leaves(node: Any) -> Iterator[dict]:
    return (leaf for leaf in walk_dicts(node) if bare_type(leaf.get("type")) == _VOC_TYPE)


def _test_pipeline(cfg: Any) -> list:
    """The pipeline of the test set, or of the validation set: images without augmentation, with their boxes."""
    for section in ("test_dataloader", "val_dataloader"):
        for leaf in dataset_leaves((cfg.get(section) or {}).get("dataset")):
            if leaf.get("pipeline"):
                return leaf["pipeline"]
    raise ConfigError(
        "--select-on val: neither the test nor the validation data of the config have a pipeline."
    )
