"""Everything at once: what a detector gets wrong, per class and in the mean, as one plain document."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.errors.curve import area_ap, eleven_point_ap, precision_at_recalls
from sosr_det.evaluation.errors.gains import Gains, ap_gains
from sosr_det.evaluation.errors.groups import GroupAP, ap_by_group, mean_of_group
from sosr_det.evaluation.errors.missed import missed_objects
from sosr_det.evaluation.errors.operating_point import (
    OperatingPoint,
    confident_detections,
    operating_points,
)
from sosr_det.evaluation.errors.outcomes import FALSE_POSITIVE_KINDS, KINDS, Outcomes, explain_detections
from sosr_det.evaluation.errors.worst_images import ImageErrors, describe, worst_images
from sosr_det.evaluation.voc_ap import VOCResult, evaluate_voc

RECALL_STEPS = 100


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """What :func:`analyze_errors` finds; fractions, 0 to 1, unrounded.

    Attributes:
        data: What was analysed.
        voc: AP by VOC's rules at ``foreground_iou``.
        foreground_iou: IoU that a match must exceed.
        background_iou: IoU up to which a box has nothing to do with an object.
        outcomes: What became of every detection and object.
        confident: Detections at or above the best-F1 threshold of their class; bool [M].
        counts: Errors of each of ``KINDS`` per class: of a false positive the detection's class, of a missed object its
            own; int64 [classes].
        confident_counts: The same when only the confident detections are looked at.
        gains_area: What fixing each kind adds to AP (area).
        gains_11point: The same for AP (11-point).
        points: Best-F1 operating point per class.
        pooled_point: That of all classes' detections together.
        precision: Highest precision at recall k/100 or beyond, k = 0..100, per class; None without objects.
        confusions: (detected as, really is) -> confident classification errors, the most frequent first.
        groups: AP by size and of truncated and difficult objects, ``groups[group][class]``.
        worst: The images with the most errors.
    """

    data: EvaluationSet
    voc: VOCResult
    foreground_iou: float
    background_iou: float
    outcomes: Outcomes
    confident: np.ndarray
    counts: dict[str, np.ndarray]
    confident_counts: dict[str, np.ndarray]
    gains_area: Gains
    gains_11point: Gains
    points: dict[str, OperatingPoint]
    pooled_point: OperatingPoint
    precision: dict[str, np.ndarray | None]
    confusions: dict[tuple[str, str], int]
    groups: dict[str, dict[str, GroupAP]]
    worst: list[ImageErrors]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON can hold them: fractions at full precision, null for what is not defined."""
        per_class = {name: self._class_entry(i, name) for i, name in enumerate(self.data.class_names)}
        mean = {
            "map_area": self.voc.map_area,
            "map_11point": self.voc.map_11point,
            "errors": {kind: int(self.counts[kind].sum()) for kind in KINDS},
            "errors_at_threshold": {kind: int(self.confident_counts[kind].sum()) for kind in KINDS},
            "map_area_gain": {k: mean_gain(v) for k, v in self.gains_area.gain.items()},
            "map_11point_gain": {k: mean_gain(v) for k, v in self.gains_11point.gain.items()},
            "groups": {group: _group_entry(mean_of_group(each)) for group, each in self.groups.items()},
            "best_f1_all_classes_together": asdict(self.pooled_point),
        }
        return _plain(
            {
                "num_images": self.data.num_images,
                "num_detections": self.data.num_detections,
                "foreground_iou": self.foreground_iou,
                "background_iou": self.background_iou,
                "classes_without_ground_truth": list(self.voc.classes_without_ground_truth),
                "all_classes": mean,
                "classes": per_class,
                "confusions_at_threshold": [
                    {"detected_as": seen, "object": really, "detections": number}
                    for (seen, really), number in self.confusions.items()
                ],
                "worst_images": [
                    {
                        "image": self.data.image_ids[each.image],
                        "errors": each.num_errors,
                        "true_positives": len(each.true_positives),
                        "what": describe(self.outcomes, each),
                        "more": each.num_more,
                    }
                    for each in self.worst
                ],
            }
        )

    def _class_entry(self, i: int, name: str) -> dict[str, Any]:
        ap = self.voc.per_class[name]
        curve = self.precision[name]
        return {
            "ap_area": ap.ap_area,
            "ap_11point": ap.ap_11point,
            "num_ground_truth": ap.num_ground_truth,
            "num_difficult": ap.num_difficult,
            "num_detections": ap.num_detections,
            "num_true_positives": ap.num_true_positives,
            "num_false_positives": ap.num_false_positives,
            "num_ignored": ap.num_ignored,
            "errors": {kind: int(self.counts[kind][i]) for kind in KINDS},
            "errors_at_threshold": {kind: int(self.confident_counts[kind][i]) for kind in KINDS},
            "ap_area_gain": {kind: gain[i] for kind, gain in self.gains_area.gain.items()},
            "ap_11point_gain": {kind: gain[i] for kind, gain in self.gains_11point.gain.items()},
            "best_f1": asdict(self.points[name]),
            "groups": {group: _group_entry(each[name]) for group, each in self.groups.items()},
            "precision_at_recall_0_to_1_by_0.01": None if curve is None else curve.tolist(),
        }


def analyze_errors(
    data: EvaluationSet,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.1,
    max_worst_images: int = 24,
) -> ErrorAnalysis:
    """Analyse the errors of one detector on one data set.

    Args:
        data: Ground truth and detections.
        foreground_iou: IoU that a match must exceed.
        background_iou: IoU up to which a box has nothing to do with an object; 0 <= background < foreground < 1.
        max_worst_images: Images to list at most.

    Raises:
        ValueError: thresholds out of order; boxes, scores or indices that
            :func:`~sosr_det.evaluation.voc_ap.evaluate_voc` refuses, with the class named.
    """
    voc = evaluate_voc(
        data.ground_truth,
        data.detections,
        data.class_names,
        iou_threshold=foreground_iou,
        num_images=data.num_images,
    )
    outcomes = explain_detections(data, foreground_iou=foreground_iou, background_iou=background_iou)
    points, pooled = operating_points(outcomes)
    confident = confident_detections(outcomes, points, pooled)
    return ErrorAnalysis(
        data=data,
        voc=voc,
        foreground_iou=foreground_iou,
        background_iou=background_iou,
        outcomes=outcomes,
        confident=confident,
        counts=count_errors(outcomes),
        confident_counts=count_errors(outcomes, confident),
        gains_area=ap_gains(outcomes, area_ap),
        gains_11point=ap_gains(outcomes, eleven_point_ap),
        points=points,
        pooled_point=pooled,
        precision={name: _curve(voc, name) for name in data.class_names},
        confusions=_confusions(outcomes, confident),
        groups=ap_by_group(data, foreground_iou),
        worst=worst_images(outcomes, confident, data.num_images, max_worst_images),
    )


def count_errors(outcomes: Outcomes, considered: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Errors of each of ``KINDS`` per class, when only the ``considered`` detections (bool [M]) are looked at."""
    counts = {}
    for kind in FALSE_POSITIVE_KINDS:
        of_kind = outcomes.is_kind(kind)
        if considered is not None:
            of_kind &= considered
        counts[kind] = np.bincount(outcomes.label[of_kind], minlength=len(outcomes.class_names))
    missed = missed_objects(outcomes, considered)
    counts["missed"] = np.bincount(outcomes.gt_label[missed], minlength=len(outcomes.class_names))
    return counts


def mean_gain(per_class: np.ndarray) -> float:
    """Mean over the classes that have objects to be found; NaN if none has."""
    defined = per_class[~np.isnan(per_class)]
    return math.fsum(defined) / len(defined) if len(defined) else math.nan


def _curve(voc: VOCResult, name: str) -> np.ndarray | None:
    ap = voc.per_class[name]
    if ap.num_ground_truth == 0:
        return None
    return precision_at_recalls(ap.true_positive[~ap.ignored], ap.num_ground_truth, RECALL_STEPS)


def _confusions(outcomes: Outcomes, confident: np.ndarray) -> dict[tuple[str, str], int]:
    names = outcomes.class_names
    rows = np.flatnonzero(confident & outcomes.is_kind("classification"))
    pairs = Counter(
        zip(outcomes.label[rows].tolist(), outcomes.gt_label[outcomes.target[rows]].tolist(), strict=True)
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return {(names[seen], names[really]): number for (seen, really), number in ordered}


def _group_entry(group: GroupAP) -> dict[str, Any]:
    entry = asdict(group)
    if group.area_range is None:
        del entry["area_range"]
    return entry


def _plain(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if math.isfinite(value) else None
    return value
