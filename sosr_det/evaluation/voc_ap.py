"""PASCAL VOC average precision in numpy, without rounding and without MMDetection.

Two definitions of one class's average precision (AP), both from the same precision-recall curve:

- **11-point** (VOC2007): the mean, over the recall levels 0, 0.1, ..., 1, of the highest precision
  reached at that recall or beyond.
- **area** (VOC2010 and later): the area under the curve after each precision is replaced by the highest
  precision at that recall or beyond.

Rules, in the order in which they are applied to a class:

1. Boxes are pixel-inclusive: ``[x1, x2]`` covers ``x2 - x1 + 1`` pixels, in the boxes and in their
   intersection. Only differences count, so 0-based and 1-based boxes give the same result, as long as
   detections and ground truth agree.
2. Detections are visited by descending score; equal scores keep the order in which they were given.
3. Each detection is compared with the ground truth of highest intersection over union (IoU) in its image,
   among all of them: difficult or not, already matched or not. Of equal ones the first counts.
4. IoU strictly greater than ``iou_threshold`` is a match. Then: a *difficult* ground truth removes the
   detection from the curve; an unmatched ground truth makes it a true positive; one that is already
   matched, a false positive. No match is a false positive.
5. Recall is measured against the ground truth that is not difficult.

On rule 4: the papers say that the overlap "must exceed" 0.5, and the Python ports (py-faster-rcnn,
Detectron2) compare with ``>``; so do we. The development kit's MATLAB file ``VOCevaldet.m`` and MMDetection
compare with ``>=``, which differs only for an IoU of exactly the threshold (none of the 101,139 detections
of the YOLOv2 below at 0.5); ``iou_comparison='>='`` does as they do.

On the 11 recall levels: a recall of exactly k/10 reaches its level, and is compared in integers. The Python
ports compare floats with ``np.arange(0, 1.1, 0.1)``, where three levels (0.3, 0.6, 0.7) come out one unit in the
last place too high and are missed by an exact recall. It happens where the number of ground truths is a multiple
of 10: a public YOLOv2 on VOC2007 test gains 0.11 points of 11-point AP on pottedplant (480 of them) and 0.006
points of mAP. ``recall_thresholds='arange'`` gives the ports' numbers.

Sources: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 88 (2010), section 4.2;
Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 111 (2015), section 3;
the development kit's ``VOCevaldet.m`` and ``VOCap.m``, http://host.robots.ox.ac.uk/pascal/VOC/.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from sosr_det.evaluation.boxes import Detections, GroundTruth
from sosr_det.evaluation.input_checks import check_class
from sosr_det.evaluation.matching import IouComparison, Matches, apply_threshold, compare

RecallThresholds = Literal["exact", "arange"]


@dataclass(frozen=True, eq=False)
class ClassAP:
    """Average precision of one class, and the curve that it comes from.

    Attributes:
        ap_11point: VOC2007 average precision, 0 (nothing found) to 1 (everything found, without a false
            positive above any of it); NaN if ``num_ground_truth`` is 0.
        ap_area: VOC2010 average precision, same range.
        num_ground_truth: Boxes to be found, that is without the difficult ones.
        num_difficult: Ground-truth boxes marked difficult.
        num_detections: Detections given; the sum of the next three.
        num_true_positives: Detections that found a box of their own.
        num_false_positives: Detections that found none, or one already found.
        num_ignored: Detections whose best box is difficult.
        true_positive: For each detection by descending score, whether it found a box; bool [num_detections].
        ignored: For each of them, whether its best box is difficult; bool [num_detections].
        all_scores: Their scores, descending; float64 [num_detections].

    The curve is made from these when it is asked for: kept for every class and threshold it would outgrow the input.
    """

    ap_11point: float
    ap_area: float
    num_ground_truth: int
    num_difficult: int
    num_detections: int
    num_true_positives: int
    num_false_positives: int
    num_ignored: int
    true_positive: np.ndarray = field(repr=False)
    ignored: np.ndarray = field(repr=False)
    all_scores: np.ndarray = field(repr=False)

    def ap_11point_with(self, recall_thresholds: RecallThresholds) -> float:
        """11-point average precision with this kind of recall thresholds, whatever ``ap_11point`` has."""
        if not self.num_ground_truth:
            return math.nan
        is_tp = self.true_positive[~self.ignored]
        return _both_aps(is_tp, self.num_ground_truth, recall_thresholds)[0]

    @property
    def precision(self) -> np.ndarray:
        """True positives / detections, after each detection that is not ignored, by descending score.

        float64 [num_true_positives + num_false_positives], 0 to 1; computed at each access, like the next two.
        """
        tp = np.cumsum(self.true_positive[~self.ignored])
        return tp / np.arange(1, len(tp) + 1)

    @property
    def recall(self) -> np.ndarray:
        """True positives / ``num_ground_truth`` at the same places, 0 to 1; NaN where that is 0."""
        tp = np.cumsum(self.true_positive[~self.ignored])
        return tp / self.num_ground_truth if self.num_ground_truth else np.full(len(tp), np.nan)

    @property
    def scores(self) -> np.ndarray:
        """Scores of the same detections, descending."""
        return self.all_scores[~self.ignored]


@dataclass(frozen=True, eq=False)
class VOCResult:
    """Mean average precision over classes. All values are fractions, 0 to 1, in float64 and unrounded.

    Attributes:
        map_11point: Mean of ``ap_11point`` over the classes that have ground truth; NaN if none has.
        map_area: The same of ``ap_area``.
        per_class: One entry per class, in the order of ``class_names``.
        classes_without_ground_truth: Classes left out of the means because nothing was there to be found
            (no ground truth, or only difficult). Callers must say so: the mean is over fewer classes.
        iou_threshold: The threshold that was used.
        recall_thresholds: The kind of 11-point thresholds that was used.
        iou_comparison: How IoU was compared with the threshold, ``'>'`` or ``'>='``.
    """

    map_11point: float
    map_area: float
    per_class: dict[str, ClassAP]
    classes_without_ground_truth: tuple[str, ...]
    iou_threshold: float
    recall_thresholds: RecallThresholds
    iou_comparison: IouComparison = ">"


def evaluate_class(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    iou_threshold: float = 0.5,
    recall_thresholds: RecallThresholds = "exact",
    iou_comparison: IouComparison = ">",
    class_name: str = "",
    num_images: int | None = None,
) -> ClassAP:
    """Average precision of one class.

    Args:
        ground_truth: Every box of the class, over all images.
        detections: Every detection of the class, over all images. The order matters among equal scores.
        iou_threshold: IoU that a match must exceed, 0 <= threshold < 1. 0 accepts any overlap.
        recall_thresholds: ``'exact'`` compares recall with k/10 in integers. ``'arange'`` compares floats
            with ``np.arange(0, 1.1, 0.1)`` as the Python ports of the development kit do; three of those
            (0.3, 0.6, 0.7) come out slightly high, so that a recall of exactly 3/10 misses its level.
        iou_comparison: ``'>'``: a match must exceed the threshold; ``'>='``: it must reach it, as in
            ``VOCevaldet.m`` and MMDetection, and the threshold must be greater than 0.
        class_name: For error messages.
        num_images: If given, image indices must be smaller.

    Returns:
        Both average precisions (fractions, unrounded), counts and the curve.

    Raises:
        ValueError: For wrong shapes, NaN or infinite boxes or scores, negative or too large image indices,
            a ground-truth box with ``x2 < x1`` or ``y2 < y1``, or an unusable option. The message names
            the class and the first offending entry.
    """
    _check_options([iou_threshold], recall_thresholds, iou_comparison)
    check_class(ground_truth, detections, class_name, num_images)
    return _class_ap(ground_truth, detections, [iou_threshold], recall_thresholds, iou_comparison)[0]


def evaluate_voc(
    ground_truth: Mapping[str, GroundTruth],
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    recall_thresholds: RecallThresholds = "exact",
    iou_comparison: IouComparison = ">",
    num_images: int | None = None,
) -> VOCResult:
    """Average precision of every class, and their means.

    Args:
        ground_truth: One entry for each of ``class_names`` (``GroundTruth.empty()`` for none), no others.
        detections: One entry for each of ``class_names`` (``Detections.empty()`` for none), no others.
        class_names: The classes, without duplicates; the order of the result.
        iou_threshold: IoU that a match must exceed, 0 <= threshold < 1.
        recall_thresholds: ``'exact'`` or ``'arange'``, see :func:`evaluate_class`.
        iou_comparison: ``'>'`` or ``'>='``, see :func:`evaluate_class`.
        num_images: If given, image indices must be smaller.

    Returns:
        Means and per-class values. Look at ``classes_without_ground_truth``: those are not in the means.

    Raises:
        ValueError: If a class is missing, unknown or listed twice, or as :func:`evaluate_class`.
    """
    (result,) = evaluate_voc_at(
        ground_truth,
        detections,
        class_names,
        [iou_threshold],
        recall_thresholds=recall_thresholds,
        iou_comparison=iou_comparison,
        num_images=num_images,
    ).values()
    return result


def evaluate_voc_at(
    ground_truth: Mapping[str, GroundTruth],
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    iou_thresholds: Sequence[float],
    *,
    recall_thresholds: RecallThresholds = "exact",
    iou_comparison: IouComparison = ">",
    num_images: int | None = None,
) -> dict[float, VOCResult]:
    """As :func:`evaluate_voc` at several IoU thresholds; the detections are sorted and compared only once.

    Args:
        iou_thresholds: At least one, without duplicates.

    Returns:
        One result per threshold, in the given order.
    """
    thresholds = [float(threshold) for threshold in iou_thresholds]
    _check_options(thresholds, recall_thresholds, iou_comparison)
    _check_names(ground_truth, detections, class_names)
    per_class: dict[float, dict[str, ClassAP]] = {threshold: {} for threshold in thresholds}
    for name in class_names:
        check_class(ground_truth[name], detections[name], name, num_images)
        values = _class_ap(
            ground_truth[name], detections[name], thresholds, recall_thresholds, iou_comparison
        )
        for threshold, value in zip(thresholds, values, strict=True):
            per_class[threshold][name] = value
    return {
        threshold: _means(of_classes, threshold, recall_thresholds, iou_comparison)
        for threshold, of_classes in per_class.items()
    }


def _class_ap(
    ground_truth: GroundTruth,
    detections: Detections,
    iou_thresholds: Sequence[float],
    recall_thresholds: RecallThresholds,
    iou_comparison: IouComparison,
) -> list[ClassAP]:
    """Average precision of one class at each threshold; all arguments are checked."""
    comparison = compare(ground_truth, detections)
    scores = detections.scores[comparison.order]
    return [
        _ap_of_matches(
            ground_truth,
            apply_threshold(ground_truth, comparison, threshold, iou_comparison),
            scores,
            recall_thresholds,
        )
        for threshold in iou_thresholds
    ]


def _ap_of_matches(
    ground_truth: GroundTruth, matches: Matches, scores: np.ndarray, recall_thresholds: RecallThresholds
) -> ClassAP:
    # Ignored detections repeat the point before them and change neither AP: leave them out of the curve.
    is_tp = matches.true_positive[~matches.ignored]
    num_true_positives = int(np.count_nonzero(is_tp))
    num_difficult = int(np.count_nonzero(ground_truth.difficult))
    num_ground_truth = len(ground_truth) - num_difficult
    ap_11point, ap_area = (
        _both_aps(is_tp, num_ground_truth, recall_thresholds) if num_ground_truth else (math.nan, math.nan)
    )
    return ClassAP(
        ap_11point=ap_11point,
        ap_area=ap_area,
        num_ground_truth=num_ground_truth,
        num_difficult=num_difficult,
        num_detections=len(scores),
        num_true_positives=num_true_positives,
        num_false_positives=len(is_tp) - num_true_positives,
        num_ignored=len(scores) - len(is_tp),
        true_positive=matches.true_positive,
        ignored=matches.ignored,
        all_scores=scores,
    )


def _both_aps(
    is_tp: np.ndarray, num_ground_truth: int, recall_thresholds: RecallThresholds
) -> tuple[float, float]:
    """11-point and area AP from which of the detections that count, by descending score, are right."""
    # The curve matters only at the true positives: in between recall stands still and precision falls.
    at = np.flatnonzero(is_tp)
    tp = np.arange(1, len(at) + 1)
    # envelope[i]: highest precision at the true positive i or after.
    envelope = np.maximum.accumulate((tp / (at + 1))[::-1])[::-1]
    if recall_thresholds == "exact":
        # The first place where 10 * tp >= k * num_ground_truth, in integers.
        needed = [-(-k * num_ground_truth // 10) for k in range(11)]
        reached = np.searchsorted(tp, needed, side="left")
    else:
        reached = np.searchsorted(tp / num_ground_truth, np.arange(0.0, 1.1, 0.1), side="left")
    # Recall rises by 1 / num_ground_truth at each true positive, and nowhere else.
    return float(envelope[reached[reached < len(tp)]].sum() / 11), float(envelope.sum() / num_ground_truth)


def _means(
    per_class: dict[str, ClassAP],
    iou_threshold: float,
    recall_thresholds: RecallThresholds,
    iou_comparison: IouComparison,
) -> VOCResult:
    present = [ap for ap in per_class.values() if ap.num_ground_truth > 0]
    return VOCResult(
        map_11point=_mean([ap.ap_11point for ap in present]),
        map_area=_mean([ap.ap_area for ap in present]),
        per_class=per_class,
        classes_without_ground_truth=tuple(n for n, ap in per_class.items() if ap.num_ground_truth == 0),
        iou_threshold=iou_threshold,
        recall_thresholds=recall_thresholds,
        iou_comparison=iou_comparison,
    )


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _check_names(
    ground_truth: Mapping[str, GroundTruth],
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
) -> None:
    if not class_names or isinstance(class_names, str):
        raise ValueError(f"class_names must be a non-empty sequence of names, got {class_names!r}")
    duplicates = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if duplicates:
        raise ValueError(f"class_names lists a class twice: {duplicates}")
    for what, given in (("ground_truth", ground_truth), ("detections", detections)):
        unknown = sorted(set(given) - set(class_names))
        if unknown:
            raise ValueError(
                f"{what} has classes that are not in class_names: {unknown}; expected {list(class_names)}"
            )
        missing = [name for name in class_names if name not in given]
        if missing:
            raise ValueError(f"{what} has no entry for {missing}; give an empty one if there is nothing")


def _check_options(iou_thresholds: Sequence[float], recall_thresholds: str, iou_comparison: str) -> None:
    if iou_comparison not in get_args(IouComparison):
        raise ValueError(f"iou_comparison must be one of {get_args(IouComparison)}, got {iou_comparison!r}")
    for threshold in iou_thresholds:
        if not 0 <= threshold < 1:  # also refuses NaN
            raise ValueError(f"iou_threshold must be at least 0 and less than 1, got {threshold!r}")
        if threshold == 0 and iou_comparison == ">=":
            raise ValueError(
                "iou_threshold must be greater than 0 with iou_comparison '>=': IoU 0 is no overlap"
            )
    if not iou_thresholds or len(set(iou_thresholds)) < len(iou_thresholds):
        raise ValueError(
            f"iou_thresholds must hold at least one threshold and none twice, got {list(iou_thresholds)}"
        )
    if recall_thresholds not in get_args(RecallThresholds):
        raise ValueError(
            f"recall_thresholds must be one of {get_args(RecallThresholds)}, got {recall_thresholds!r}"
        )
