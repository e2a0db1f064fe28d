"""What a sweep refuses before its first training, because every run of it, or every run of a point, would fail."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sosr_det.engine.configs import parse_override
from sosr_det.engine.sweep.grid import DEFAULT_GRID
from sosr_det.errors import ConfigError
from sosr_det.evaluation.all_metrics import extra_metric_names

_LOSS = "model.loss"


def require_sosr(name: str, config: Mapping[str, Any]) -> None:
    """The default grid is over SOSR's P and beta, which only a config with that loss has.

    Args:
        name: of the config, for the message.
        config: the loaded config.

    Raises:
        ConfigError: a detection config, or one with another loss or none under ``model.loss``.
    """
    loss = _part(config, "model", "loss")
    if config.get("stage") == "detection":
        problem = "is of the detection stage, whose losses have neither"
    elif not isinstance(loss, Mapping):
        problem = f"has no {_LOSS}"
    elif _type_name(loss) != "SOSRLoss":
        problem = f"has the loss {_type_name(loss)}: take its -sosr twin, or"
    else:
        return
    joined = problem if problem.endswith("or") else f"{problem}:"
    raise ConfigError(
        f"without --set a sweep is over SOSR's P and beta ({', '.join(DEFAULT_GRID)}), but {name} {joined} name what "
        "to vary with --set KEY=V1,V2."
    )


def require_usable_losses(grid: Mapping[str, Sequence[str]], config: Mapping[str, Any]) -> None:
    """Build the loss of every point of a classification config whose loss is swept.

    Args:
        grid: values as text by config key.
        config: the loaded config, which takes every key of the grid.

    Raises:
        ConfigError: a loss refuses a point's values; the message has both.
    """
    if not any(key == _LOSS or key.startswith(f"{_LOSS}.") for key in grid) or not _is_classifier(config):
        return
    from sosr_det.models import build_criterion

    for values in itertools.product(*grid.values()):
        point = copy.deepcopy(config)
        try:
            for key, value in zip(grid, values, strict=True):
                point.merge_from_dict(dict([parse_override(f"{key}={value}")]))
            build_criterion(point.model.loss.to_dict(), point.model.get("num_classes", 2))
        except Exception as error:
            shown = " ".join(f"--set {key}={value}" for key, value in zip(grid, values, strict=True))
            raise ConfigError(f"{shown}: the loss cannot be built: {error}") from error


def require_metric(metric: str, config: Mapping[str, Any]) -> None:
    """The validation gives this metric, as far as its evaluators are this project's.

    Raises:
        ConfigError: it does not; the message lists those that it gives.
    """
    known = metric_names(config)
    if known is None:
        return
    exact, of_classes = known
    if metric not in exact and not any(metric.startswith(start) for start in of_classes):
        names = ", ".join([*exact, *(f"{start}<class>" for start in of_classes)])
        raise ConfigError(
            f"--metric {metric}: this config's validation gives no such metric. It gives: {names}."
        )


def metric_names(config: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """What the evaluators of the validation give: names, and the beginnings of names that end in a class.

    None where that is not known: other packages' evaluators, or none at all.
    """
    evaluators = config.get("val_evaluator")
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
    if not isinstance(evaluators, Sequence) or not evaluators:
        return None
    exact: list[str] = []
    of_classes: list[str] = []
    for evaluator in evaluators:
        kind = _type_name(evaluator) if isinstance(evaluator, Mapping) else None
        if kind == "ClassificationMetric":
            num_classes = _part(config, "model", "num_classes")
            ranks = [
                k
                for k in evaluator.get("topk", (1, 5))
                if not isinstance(num_classes, int) or k <= num_classes
            ]
            prefix, names, starts = "accuracy", [f"top{k}" for k in ranks] + ["ece", "nll", "num_samples"], []
        elif kind == "VOCDevkitMetric":
            extra = extra_metric_names(evaluator.get("iou_thresholds", ()), evaluator.get("coco", False))
            prefix, names = "voc", ["map_11point", "map_area", *extra, "num_images"]
            starts = ["ap_11point/", "ap_area/"]
        else:
            return None
        given = evaluator.get("prefix")
        prefix = prefix if given is None else given
        exact += [f"{prefix}/{name}" if prefix else name for name in names]
        of_classes += [f"{prefix}/{start}" if prefix else start for start in starts]
    return exact, of_classes


def _is_classifier(config: Mapping[str, Any]) -> bool:
    model = _part(config, "model")
    return (
        config.get("stage") != "detection"
        and isinstance(model, Mapping)
        and _type_name(model) in (None, "BackboneClassifier")
        and isinstance(model.get("loss"), Mapping)
    )


def _part(config: Mapping[str, Any], *keys: str) -> Any:
    node: Any = config
    for key in keys:
        node = node.get(key) if hasattr(node, "get") else None
    return node


def _type_name(node: Mapping[str, Any]) -> str | None:
    """Name of the class without its scope (``mmdet.X``); a config may hold the class itself too."""
    kind = node.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", None)
