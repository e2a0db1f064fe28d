"""What ``sosr-det eval-voc`` prints: plain text; mmengine and rich would take longer to import than all else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sosr_det.evaluation.all_metrics import DetectionMetrics
from sosr_det.evaluation.ap_document import Metric, other_thresholds
from sosr_det.evaluation.voc_ap import VOCResult


def result_notes(metrics: DetectionMetrics, metric: Metric) -> list[str]:
    """What the figures alone do not say: classes left out of the means, and what another definition would give."""
    first = metrics.first
    notes = absent_classes(first)
    other = other_thresholds(first)
    if metric != "area":
        values = {name: (ap.ap_11point, ap.ap_11point_with(other)) for name, ap in first.per_class.items()}
        changed = [
            f"{name} {_percent(theirs)} instead of {_percent(ours)}"
            for name, (ours, theirs) in values.items()
            if abs(ours - theirs) > 1e-9
        ]
        if changed:
            words = {
                "arange": "the float recall thresholds of the Python ports (--recall-thresholds arange)",
                "exact": "exact recall thresholds (the default)",
            }
            notes.append(
                f"with {words[other]} the 11-point AP is, in percent: {', '.join(changed)} "
                f"(ap_11point_{other} in the JSON)"
            )
    if metrics.coco is not None and metrics.coco.num_beyond_limit:
        notes.append(
            f"COCO's AP leaves out {metrics.coco.num_beyond_limit} detections beyond the 100 best of an image and class"
        )
    return notes


def absent_classes(result: VOCResult) -> list[str]:
    """The sentence on classes that are left out of the means, if there are any."""
    if not result.classes_without_ground_truth:
        return []
    absent = [
        f"{name} ({result.per_class[name].num_detections} detections)"
        for name in result.classes_without_ground_truth
    ]
    return [
        f"no ground truth (or only difficult) for {len(absent)} of {len(result.per_class)} classes: "
        f"{', '.join(absent)}; the means are over the others"
    ]


def report_lines(
    metrics: DetectionMetrics, metric: Metric, inputs: dict[str, Any], notes: Sequence[str]
) -> list[str]:
    """A table per class; percent with two decimals, for display only."""
    source, truth = inputs["detections"], inputs["ground_truth"]
    split = f" {truth['split']}" if "split" in truth else ""
    num_detections = sum(ap.num_detections for ap in metrics.first.per_class.values())
    lines = [
        f"{num_detections:,} detections ({source['format']}) in {metrics.num_images:,} images of "
        f"{truth['path']}{split}"
    ]
    lines += _table(metrics.first, metric)
    if len(metrics.voc) > 1:
        lines += [
            f"at IoU {each.iou_comparison} {each.iou_threshold:g}: {_means(each, metric)}"
            for each in metrics.voc.values()
        ]
    if metrics.coco is not None:
        c = metrics.coco
        lines.append(
            f"COCO: AP {_percent(c.ap)}, AP50 {_percent(c.ap50)}, AP75 {_percent(c.ap75)}, "
            f"small {_percent(c.ap_small)}, medium {_percent(c.ap_medium)}, large {_percent(c.ap_large)}"
        )
    return lines + [f"note: {note}" for note in notes]


def _table(result: VOCResult, metric: Metric) -> list[str]:
    columns = _columns(metric)
    head = ["class", "objects", "difficult", "detections", *(heading for heading, _ in columns)]
    rows = [
        [name, ap.num_ground_truth, ap.num_difficult, ap.num_detections]
        + [_percent(getattr(ap, f"ap_{key}")) for _, key in columns]
        for name, ap in result.per_class.items()
    ]
    num_averaged = len(rows) - len(result.classes_without_ground_truth)
    totals = [sum(row[column] for row in rows) for column in (1, 2, 3)]
    mean = "mean" if num_averaged == len(rows) else f"mean of {num_averaged}"
    rows.append([mean, *totals, *(_percent(getattr(result, f"map_{key}")) for _, key in columns)])
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells
    ]
    rule = "-" * max(map(len, lines))
    title = f"VOC average precision in percent, IoU {result.iou_comparison} {result.iou_threshold:g}"
    return [title, lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _columns(metric: Metric) -> list[tuple[str, str]]:
    both = [("AP 11-point", "11point"), ("AP area", "area")]
    return both if metric == "both" else [column for column in both if column[1] == metric]


def _means(result: VOCResult, metric: Metric) -> str:
    return ", ".join(
        f"m{heading} {_percent(getattr(result, f'map_{key}'))}" for heading, key in _columns(metric)
    )


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
