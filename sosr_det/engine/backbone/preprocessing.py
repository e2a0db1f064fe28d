"""Giving a config the preprocessing that its new backbone was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sosr_det.engine.backbone.uri import WeightsSource
from sosr_det.engine.configs import bare_type
from sosr_det.errors import ConfigError
from sosr_det.registry.manifest import Preprocessing
from sosr_det.transfer.contract import Allowance, check_preprocessing

_OTHERS = ("teacher", "reid")


def set_preprocessing(cfg: Any, source: WeightsSource, changes: list[str], allowance: Allowance) -> None:
    """Set mean, std and channel order of the data preprocessor to the weights' own, nested ones too.

    Args:
        cfg: changed in place.
        source: without a known preprocessing, nothing changes.
        changes: gets a line for each changed value.
        allowance: with ``preprocessing`` among its names, the config keeps its own.

    Raises:
        ConfigError: the data pipeline normalises with other numbers, or no place to set them.
    """
    expected = source.preprocessing
    if expected is None or allowance.word("preprocessing"):
        return
    if cfg.get("data_preprocessor") and not cfg["model"].get("data_preprocessor"):
        # mmengine gives the model a preprocessor that stands at the top of the config.
        cfg["model"]["data_preprocessor"] = dict(cfg["data_preprocessor"])
    normalising = list(pipeline_steps(cfg))
    preprocessors = list(_preprocessors(cfg["model"], "model"))
    own = [p for p in preprocessors if p[1].get("mean") is not None]
    if normalising:
        check_pipeline(normalising, bool(own), expected, source.uri)
        return
    if not preprocessors:
        raise ConfigError(
            f"the config has no data_preprocessor whose mean, std and bgr_to_rgb could be set to those of "
            f"{source.uri}. Give the model one, or --allow preprocessing."
        )
    for place, node in preprocessors:
        _set_one(place, node, expected, source.uri, changes)


def _set_one(place: str, node: dict, expected: Preprocessing, uri: str, changes: list[str]) -> None:
    factor = 255.0 if expected.scale == "0-1" else 1.0
    wanted: dict[str, Any] = {
        key: [round(value * factor, 6) for value in getattr(expected, key)] for key in ("mean", "std")
    }
    ours = node.get("type") == "ClassificationPreprocessor"
    if not ours:
        wanted["bgr_to_rgb"] = expected.channel_order == "rgb"
        if node.get("rgb_to_bgr"):
            wanted["rgb_to_bgr"] = False
    for key, value in wanted.items():
        before = node.get(key)
        if not _same(before, value):
            node[key] = value
            changes.append(f"{place}.{key}: {before!r} -> {value!r}")
    check_preprocessing(node, expected, uri)


def _same(before: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return bool(before) == value
    return (
        before is not None
        and len(before) == len(value)
        and all(abs(a - b) <= 1e-3 for a, b in zip(before, value, strict=True))
    )


def _preprocessors(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Every data preprocessor of the detector that has a mean, or the one that could have."""
    if isinstance(node, dict):
        for key, value in node.items():
            inner = f"{place}.{key}"
            if str(key).startswith(_OTHERS) or not isinstance(value, (dict, list, tuple)):
                continue
            if key == "data_preprocessor" and isinstance(value, dict) and "data_preprocessor" not in value:
                yield inner, value
            else:
                yield from _preprocessors(value, inner)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _preprocessors(value, f"{place}.{index}")


def pipeline_steps(cfg: Any) -> Iterator[tuple[str, dict]]:
    """Old-style ``Normalize`` steps of the data pipelines."""

    def walk(node: Any, place: str) -> Iterator[tuple[str, dict]]:
        if isinstance(node, dict):
            if bare_type(node.get("type")) == "Normalize":
                yield place, node
            for key, value in node.items():
                yield from walk(value, f"{place}.{key}")
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                yield from walk(value, f"{place}.{index}")

    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        yield from walk(cfg.get(section), section)


def check_pipeline(steps: list[tuple[str, dict]], twice: bool, expected: Preprocessing, uri: str) -> None:
    places = ", ".join(place for place, _ in steps)
    if twice:
        raise ConfigError(
            f"images would be normalised twice: by {places} and by model.data_preprocessor. Remove the Normalize steps "
            "from the pipelines, or --allow preprocessing."
        )
    for place, step in steps:
        as_preprocessor = {
            "mean": step.get("mean"),
            "std": step.get("std"),
            "bgr_to_rgb": step.get("to_rgb", True),
        }
        try:
            check_preprocessing(as_preprocessor, expected, uri)
        except ConfigError as error:
            raise ConfigError(
                f"{place} normalises the images in the data pipeline, otherwise than {uri} expects: {error} "
                "Remove that step and set model.data_preprocessor instead, or --allow preprocessing."
            ) from None
