"""Average precision of some of the objects: by size, and of truncated or difficult ones.

As COCO does it: objects outside the group are ignored, just as difficult ones are, so that a detection of one is
neither right nor wrong. For groups by size, a detection that finds nothing is ignored too if its own size is outside
the group; for the other groups every false positive of the class counts, because nothing says which of them were meant
for the group. So the AP of a small group is low by its size alone, and recall is the fairer comparison there. (COCO
differs in one thing: of several detections of an object outside the group it ignores the first; here, by VOC's rule for
difficult objects, all are ignored.)

Sizes are areas in pixels of the image as annotated, pixel-inclusive: COCO's limits of 32 by 32 and 96 by 96 pixels
(https://cocodataset.org/#detection-eval; a box on a limit belongs to the larger group, so that each belongs to one),
and quarters of each class's own objects, which say something for data whose objects are all of one COCO size (Hoiem et
al., "Diagnosing Error in Object Detectors", ECCV 2012, section 2.2, also take percentiles of each class).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors.curve import area_ap, eleven_point_ap
from sosr_det.evaluation.matching import Comparison, apply_threshold, compare, pixel_inclusive_area

COCO_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
SIZE_QUARTERS = ("smallest_quarter", "second_quarter", "third_quarter", "largest_quarter")
GROUPS = (
    *COCO_SIZES,
    *SIZE_QUARTERS,
    "whole",
    "truncated",
    "difficult_only",
    "difficult_counted",
)


@dataclass(frozen=True)
class GroupAP:
    """One class's objects of one group; fractions 0 to 1, NaN where the group is empty.

    Attributes:
        ap_11point: VOC2007 average precision, the others ignored.
        ap_area: VOC2010 average precision, the others ignored.
        recall: Share of the group's objects found by any detection, whatever its score.
        num_ground_truth: Objects in the group, difficult ones left out (but for the two groups about them).
        area_range: Lowest area in the group and lowest beyond it, in pixels; None for groups not by size.
    """

    ap_11point: float
    ap_area: float
    recall: float
    num_ground_truth: int
    area_range: tuple[float, float] | None = None


def ap_by_group(data: EvaluationSet, iou_threshold: float = 0.5) -> dict[str, dict[str, GroupAP]]:
    """Every group of ``GROUPS``, every class.

    Args:
        data: Ground truth and detections. A class whose ``truncated`` is None has empty groups ``whole`` and
            ``truncated``.
        iou_threshold: IoU that a match must exceed.
    """
    result: dict[str, dict[str, GroupAP]] = {group: {} for group in GROUPS}
    for name in data.class_names:
        for group, value in _groups_of_class(
            data.ground_truth[name], data.detections[name], iou_threshold
        ).items():
            result[group][name] = value
    return result


def mean_of_group(group: dict[str, GroupAP]) -> GroupAP:
    """Means over the classes that have objects in the group; NaN if none has."""
    present = [each for each in group.values() if each.num_ground_truth]

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else math.nan

    return GroupAP(
        ap_11point=mean([each.ap_11point for each in present]),
        ap_area=mean([each.ap_area for each in present]),
        recall=mean([each.recall for each in present]),
        num_ground_truth=sum(each.num_ground_truth for each in present),
    )


def _groups_of_class(truth: GroundTruth, detections: Detections, iou_threshold: float) -> dict[str, GroupAP]:
    counts = ~truth.difficult
    area = pixel_inclusive_area(truth.boxes)
    own_area = pixel_inclusive_area(detections.boxes)
    limits = np.quantile(area[counts], (0.25, 0.5, 0.75)) if counts.any() else np.full(3, math.nan)
    edges = [0.0, *limits.tolist(), math.inf]
    ranges = {**COCO_SIZES, **dict(zip(SIZE_QUARTERS, itertools.pairwise(edges), strict=True))}
    comparison = compare(truth, detections)

    def evaluate(inside: np.ndarray, outside: np.ndarray | None = None, area_range=None) -> GroupAP:
        return _evaluate(truth, inside, comparison, outside, iou_threshold, area_range)

    groups = {
        name: evaluate(
            counts & (low <= area) & (area < high), ~((low <= own_area) & (own_area < high)), (low, high)
        )
        for name, (low, high) in ranges.items()
    }
    nothing = np.zeros(len(truth), bool)
    known = truth.truncated is not None
    others = {
        "whole": counts & ~truth.truncated if known else nothing,
        "truncated": counts & truth.truncated if known else nothing,
        "difficult_only": truth.difficult,
        "difficult_counted": ~nothing,
    }
    return groups | {name: evaluate(inside) for name, inside in others.items()}


def _evaluate(
    truth: GroundTruth,
    inside: np.ndarray,
    comparison: Comparison,
    outside_detections: np.ndarray | None,
    iou_threshold: float,
    area_range: tuple[float, float] | None,
) -> GroupAP:
    """AP of the objects ``inside``; of ``outside_detections`` (as given), those that find nothing are left out."""
    num_objects = int(inside.sum())
    if num_objects == 0:
        return GroupAP(math.nan, math.nan, math.nan, 0, area_range)
    asked = GroundTruth(truth.image_index, truth.boxes, ~inside)
    matches = apply_threshold(asked, comparison, iou_threshold)
    counted = ~matches.ignored
    if outside_detections is not None:
        counted &= matches.true_positive | ~outside_detections[comparison.order]
    right = matches.true_positive[counted]
    return GroupAP(
        ap_11point=eleven_point_ap(right, num_objects),
        ap_area=area_ap(right, num_objects),
        recall=int(right.sum()) / num_objects,
        num_ground_truth=num_objects,
        area_range=area_range,
    )
