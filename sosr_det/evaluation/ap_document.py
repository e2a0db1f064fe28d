"""The JSON of ``sosr-det eval-voc``; its schema is described in ``docs/evaluation.md``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sosr_det.errors import DataError
from sosr_det.evaluation.all_metrics import DetectionMetrics
from sosr_det.evaluation.voc_ap import RecallThresholds, VOCResult

FORMAT = "sosr-det eval-voc 1"
Metric = Literal["11point", "area", "both"]


def ap_document(
    metrics: DetectionMetrics, metric: Metric, inputs: dict[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """Everything that was computed and what it was computed from; fractions at full precision, None for no value.

    The results at the first IoU threshold are at the top; those at every threshold are under ``at_iou`` if there are
    several.
    """
    first = metrics.first
    blocks = [_block(result, metric) for result in metrics.voc.values()]
    whole = metrics.to_dict()
    document = {
        "format": FORMAT,
        **blocks[0],
        **{key: whole[key] for key in ("num_images", "num_detections", "num_ground_truth", "num_difficult")},
        "classes": whole["classes"],
        "classes_without_ground_truth": whole["classes_without_ground_truth"],
        "settings": {
            "metric": metric,
            "iou_thresholds": list(metrics.voc),
            "iou_comparison": first.iou_comparison,
            "recall_thresholds": first.recall_thresholds,
            "boxes": "pixel-inclusive: x2 - x1 + 1",
            "difficult": "ignored",
        },
        "inputs": inputs,
        "notes": list(notes),
    }
    if len(blocks) > 1:
        document["at_iou"] = blocks
        means = whole["mean_over_iou_thresholds"]
        document["mean_over_iou_thresholds"] = {
            key: value for key, value in means.items() if metric == "both" or key == f"map_{metric}"
        }
    if "coco" in whole:
        document["coco"] = whole["coco"]
    return document


def _block(result: VOCResult, metric: Metric) -> dict[str, Any]:
    """Means, AP and counts of each class at one IoU threshold."""
    other = other_thresholds(result)
    columns: dict[str, dict[str, float]] = {}
    if metric in ("11point", "both"):
        columns["11point"] = {name: ap.ap_11point for name, ap in result.per_class.items()}
        columns[f"11point_{other}"] = {
            name: ap.ap_11point_with(other) for name, ap in result.per_class.items()
        }
    if metric in ("area", "both"):
        columns["area"] = {name: ap.ap_area for name, ap in result.per_class.items()}
    return {
        "iou_threshold": result.iou_threshold,
        **{f"map_{name}": _mean(values) for name, values in columns.items()},
        **{f"ap_{name}": {k: _number(v) for k, v in values.items()} for name, values in columns.items()},
        "counts": {
            name: {
                "ground_truth": ap.num_ground_truth,
                "difficult": ap.num_difficult,
                "detections": ap.num_detections,
                "true_positives": ap.num_true_positives,
                "false_positives": ap.num_false_positives,
                "ignored": ap.num_ignored,
            }
            for name, ap in result.per_class.items()
        },
    }


def other_thresholds(result: VOCResult) -> RecallThresholds:
    """The kind of recall thresholds that ``ap_11point`` was not computed with."""
    return "exact" if result.recall_thresholds == "arange" else "arange"


def _mean(values: dict[str, float]) -> float | None:
    present = [value for value in values.values() if not math.isnan(value)]
    return math.fsum(present) / len(present) if present else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def json_text(document: dict[str, Any]) -> str:
    """The document as JSON; what UTF-8 does not have (a file name's odd bytes, in Python's text) as ``\\udcff``."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(document, indent=1, allow_nan=False)
    return text


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Replace the file atomically.

    Raises:
        DataError: It cannot be written; nothing is left behind.
    """
    content = json_text(document) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
