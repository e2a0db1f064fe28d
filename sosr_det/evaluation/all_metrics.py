"""All average precisions of a set of detections in one call: VOC's two at any IoU thresholds, and COCO's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.coco_ap import COCO_NAMES, CocoSummary, evaluate_coco
from sosr_det.evaluation.matching import IouComparison
from sosr_det.evaluation.voc_ap import ClassAP, RecallThresholds, VOCResult, evaluate_voc_at


@dataclass(frozen=True, eq=False)
class DetectionMetrics:
    """What :func:`evaluate_detections` found; all values are fractions, 0 to 1, unrounded.

    Attributes:
        voc: IoU threshold -> VOC average precision there, in the order asked for.
        coco: COCO's average precision, or None if it was not asked for.
        num_images: Images, with or without objects.
    """

    voc: dict[float, VOCResult]
    coco: CocoSummary | None
    num_images: int

    @property
    def first(self) -> VOCResult:
        """The result at the first threshold."""
        return next(iter(self.voc.values()))

    @property
    def mean_map_11point(self) -> float:
        """Mean of ``map_11point`` over the thresholds."""
        return math.fsum(result.map_11point for result in self.voc.values()) / len(self.voc)

    @property
    def mean_map_area(self) -> float:
        """Mean of ``map_area`` over the thresholds.

        At 0.50, 0.55, ..., 0.95 this is what Detectron2's VOC evaluator, and papers that use it, call AP.
        """
        return math.fsum(result.map_area for result in self.voc.values()) / len(self.voc)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves, ready for JSON: fractions at full precision, NaN as None.

        Keys: ``num_images``, ``num_detections``, ``num_ground_truth``, ``num_difficult``, ``classes``,
        ``classes_without_ground_truth`` (not in the means), ``recall_thresholds``, ``iou_comparison``,
        ``iou_thresholds``; ``voc``: for each threshold ``iou_threshold``, ``map_11point``, ``map_area``, and per class
        ``ap_11point``, ``ap_area`` and ``counts``; ``mean_over_iou_thresholds`` of the two means, if there are several
        thresholds; ``coco``: :meth:`sosr_det.evaluation.coco_ap.CocoSummary.to_dict`, if it was asked for.
        """
        first = self.first
        classes = first.per_class.values()
        result: dict[str, Any] = {
            "num_images": self.num_images,
            "num_detections": sum(ap.num_detections for ap in classes),
            "num_ground_truth": sum(ap.num_ground_truth for ap in classes),
            "num_difficult": sum(ap.num_difficult for ap in classes),
            "classes": list(first.per_class),
            "classes_without_ground_truth": list(first.classes_without_ground_truth),
            "recall_thresholds": first.recall_thresholds,
            "iou_comparison": first.iou_comparison,
            "iou_thresholds": list(self.voc),
            "voc": [_voc_dict(each) for each in self.voc.values()],
        }
        if len(self.voc) > 1:
            result["mean_over_iou_thresholds"] = {
                "map_11point": _number(self.mean_map_11point),
                "map_area": _number(self.mean_map_area),
            }
        if self.coco is not None:
            result["coco"] = self.coco.to_dict()
        return result


def evaluate_detections(
    data: EvaluationSet,
    *,
    iou_thresholds: Sequence[float] = (0.5,),
    recall_thresholds: RecallThresholds = "exact",
    iou_comparison: IouComparison = ">",
    coco: bool = False,
) -> DetectionMetrics:
    """Average precision by every definition, from one pass over the detections.

    Args:
        data: Ground truth and detections.
        iou_thresholds: For VOC AP; at least one, none twice, 0 <= threshold < 1. More of them cost little: sorting and
            comparing with the ground truth is done once.
        recall_thresholds: ``'exact'`` or ``'arange'``, see :func:`sosr_det.evaluation.voc_ap.evaluate_class`.
        iou_comparison: ``'>'`` or ``'>='``, for VOC AP, see there.
        coco: Also COCO's numbers, which take some 30 times as long (:mod:`sosr_det.evaluation.coco_ap`).

    Raises:
        ValueError: As :func:`sosr_det.evaluation.voc_ap.evaluate_voc`.
    """
    voc = evaluate_voc_at(
        data.ground_truth,
        data.detections,
        data.class_names,
        iou_thresholds,
        recall_thresholds=recall_thresholds,
        iou_comparison=iou_comparison,
        num_images=data.num_images,
    )
    return DetectionMetrics(voc, evaluate_coco(data) if coco else None, data.num_images)


def _voc_dict(result: VOCResult) -> dict[str, Any]:
    return {
        "iou_threshold": result.iou_threshold,
        "map_11point": _number(result.map_11point),
        "map_area": _number(result.map_area),
        "ap_11point": {name: _number(ap.ap_11point) for name, ap in result.per_class.items()},
        "ap_area": {name: _number(ap.ap_area) for name, ap in result.per_class.items()},
        "counts": {name: _counts(ap) for name, ap in result.per_class.items()},
    }


def _counts(ap: ClassAP) -> dict[str, int]:
    return {
        "ground_truth": ap.num_ground_truth,
        "difficult": ap.num_difficult,
        "detections": ap.num_detections,
        "true_positives": ap.num_true_positives,
        "false_positives": ap.num_false_positives,
        "ignored": ap.num_ignored,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def extra_metrics(metrics: DetectionMetrics, iou_thresholds: Sequence[float]) -> dict[str, float]:
    """Means at ``iou_thresholds`` and COCO's numbers by the names of :func:`extra_metric_names`, in its order."""
    values = {}
    for threshold in iou_thresholds:
        values[f"map_11point{_at(threshold)}"] = metrics.voc[float(threshold)].map_11point
        values[f"map_area{_at(threshold)}"] = metrics.voc[float(threshold)].map_area
    if metrics.coco is not None:
        values |= {f"coco_{name}": getattr(metrics.coco, name) for name in COCO_NAMES}
    return values


def extra_metric_names(iou_thresholds: Sequence[float], coco: bool) -> list[str]:
    """``map_11point_iou75``, ``map_area_iou75`` for each threshold, and COCO's as ``coco_ap50``."""
    names = [
        f"{mean}{_at(threshold)}" for threshold in iou_thresholds for mean in ("map_11point", "map_area")
    ]
    return names + [f"coco_{name}" for name in COCO_NAMES if coco]


def _at(iou_threshold: float) -> str:
    return f"_iou{100 * iou_threshold:.12g}"  # 0.55 is 55, 0.625 is 62.5
