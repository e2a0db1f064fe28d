"""VOC average precision as an mmengine metric: ``val_evaluator = dict(type='VOCDevkitMetric')``.

Takes the place of MMDetection's ``VOCMetric``, which rounds AP50 to three decimals of a fraction, matches at an
IoU of exactly the threshold, reports one of the two definitions of AP at a time, and drops classes without
ground truth (and predictions with labels beyond the classes) without a word.
"""

from __future__ import annotations

import io
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from rich import box
from rich.console import Console
from rich.table import Table

from sosr_det.evaluation.voc_ap import Detections, GroundTruth, RecallThresholds, VOCResult, evaluate_voc


@METRICS.register_module()
class VOCDevkitMetric(BaseMetric):
    """Mean average precision by the rules in :mod:`sosr_det.evaluation.voc_ap`.

    Reads what MMDetection's detectors give: ``gt_instances`` (``bboxes``, ``labels``), ``ignored_instances`` (the
    same; counted as difficult) and ``pred_instances`` (``bboxes``, ``labels``, ``scores``). Boxes are
    ``x1, y1, x2, y2`` in pixels of the original image; MMDetection's VOC data sets are 0-based, and widths
    are counted as ``x2 - x1 + 1`` on both sides, so the result is that of the 1-based files.

    Metrics, under the prefix ``voc`` (fractions 0 to 1, not rounded):

    - ``map_11point``, ``map_area``: means over the classes that have ground truth; NaN if none has;
    - ``ap_11point/<class>``, ``ap_area/<class>``: NaN for a class without ground truth, with a warning;
    - ``num_images``: images evaluated.

    A table per class goes to the log, in percent with two decimals, for display only.

    Args:
        iou_threshold: IoU that a match must exceed, 0 <= threshold < 1.
        recall_thresholds: ``'exact'``, or ``'arange'`` for the Python ports' floats
            (:func:`sosr_det.evaluation.voc_ap.evaluate_class`).
        collect_device: ``'cpu'`` or ``'gpu'``, where distributed runs gather the results.
        prefix: Prefix of the metrics' names, ``'voc'`` if None.
        collect_dir: Folder that all ranks share, for gathering with ``collect_device='cpu'``.

    Raises:
        ValueError: For an unusable option; while evaluating, for NaN or infinite boxes or scores, predicted or
            true labels outside the classes (each named with its image), or without any image.
    """

    default_prefix = "voc"

    def __init__(
        self,
        iou_threshold: float = 0.5,
        recall_thresholds: RecallThresholds = "exact",
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        # Checks the options now rather than after the first epoch.
        evaluate_voc(
            {"": GroundTruth.empty()},
            {"": Detections.empty()},
            [""],
            iou_threshold=iou_threshold,
            recall_thresholds=recall_thresholds,
        )
        self.iou_threshold = iou_threshold
        self.recall_thresholds: RecallThresholds = recall_thresholds

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep boxes, labels and scores of each image; ``data_batch`` is not used."""
        classes = self._classes()
        for sample in data_samples:
            image = str(sample.get("img_path") or sample.get("img_id") or f"number {len(self.results)}")
            truth = _boxes_and_labels(sample, "gt_instances", image, len(classes))
            ignored = _boxes_and_labels(sample, "ignored_instances", image, len(classes))
            found = _boxes_and_labels(sample, "pred_instances", image, len(classes))
            scores = _array(sample["pred_instances"]["scores"])
            if scores.shape != found[1].shape:
                raise ValueError(
                    f"image {image}: pred_instances has scores of shape {list(scores.shape)} "
                    f"for {len(found[1])} boxes"
                )
            if not np.isfinite(scores).all():
                bad = scores[~np.isfinite(scores)][0]
                raise ValueError(
                    f"image {image}: pred_instances has the score {bad}; has the model diverged?"
                )
            true_boxes = np.concatenate([truth[0], ignored[0]])
            self.results.append(
                {
                    "image": image,
                    "gt_boxes": true_boxes,
                    "gt_labels": np.concatenate([truth[1], ignored[1]]),
                    "difficult": np.repeat([False, True], [len(truth[1]), len(ignored[1])]),
                    "boxes": found[0],
                    "labels": found[1],
                    "scores": scores,
                    "beyond_image": _reaches_beyond(true_boxes, sample.get("ori_shape")),
                }
            )

    def evaluate(self, size: int) -> dict[str, Any]:
        """Gather from all ranks and compute; ``size`` is the number of images in the data set."""
        self._expected_num_images = size
        return super().evaluate(size)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        """Metrics of the whole data set from what :meth:`process` kept."""
        classes = self._classes()
        if not results:
            raise ValueError(f"{type(self).__name__} has no images to evaluate")
        result = evaluate_voc(
            *_by_class(results, classes),
            classes,
            iou_threshold=self.iou_threshold,
            recall_thresholds=self.recall_thresholds,
            num_images=len(results),
        )
        self._warn(results, result)
        print_log("\n" + format_table(result), logger="current")
        metrics: dict[str, Any] = {"map_11point": result.map_11point, "map_area": result.map_area}
        for name, ap in result.per_class.items():
            metrics[f"ap_11point/{name}"] = ap.ap_11point
            metrics[f"ap_area/{name}"] = ap.ap_area
        metrics["num_images"] = len(results)
        return metrics

    def _classes(self) -> list[str]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError(
                f"{type(self).__name__} needs dataset_meta['classes'], the data set's class names"
            )
        return list(classes)

    def _warn(self, results: list[dict[str, Any]], result: VOCResult) -> None:
        lines = []
        expected = getattr(self, "_expected_num_images", len(results))
        if len(results) < expected:
            lines.append(f"only {len(results)} of the data set's {expected} images were evaluated")
        repeated = [image for image, count in Counter(r["image"] for r in results).items() if count > 1]
        if repeated:
            lines.append(f"{len(repeated)} images were evaluated more than once, first {repeated[0]}")
        beyond = [r["image"] for r in results if r["beyond_image"]]
        if beyond:
            lines.append(
                f"ground truth reaches beyond its image in {len(beyond)} images, first {beyond[0]}. If the test "
                "pipeline has LoadAnnotations before Resize, the boxes were resized and the result is wrong"
            )
        absent = result.classes_without_ground_truth
        if absent:
            counts = ", ".join(
                f"{name} ({result.per_class[name].num_detections} detections)" for name in absent
            )
            lines.append(
                f"no ground truth (or only difficult) for {len(absent)} of {len(result.per_class)} classes: {counts}. "
                "Their AP is NaN and the means are over the others"
            )
        if lines:
            print_log(f"{type(self).__name__}: " + "; ".join(lines), logger="current", level=logging.WARNING)


def format_table(result: VOCResult) -> str:
    """Per-class table as plain text; AP in percent with two decimals, ``-`` where there is no AP."""
    table = Table(box=box.ASCII2, title=f"VOC average precision, IoU > {result.iou_threshold:g}, percent")
    table.add_column("class", no_wrap=True)
    for heading in ("ground truth", "difficult", "detections", "AP 11-point", "AP area"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = result.per_class.items()
    for name, ap in rows:
        table.add_row(
            name,
            str(ap.num_ground_truth),
            str(ap.num_difficult),
            str(ap.num_detections),
            _percent(ap.ap_11point),
            _percent(ap.ap_area),
        )
    table.add_section()
    num_averaged = len(rows) - len(result.classes_without_ground_truth)
    table.add_row(
        "mean" if num_averaged == len(rows) else f"mean of {num_averaged}",
        str(sum(ap.num_ground_truth for _, ap in rows)),
        str(sum(ap.num_difficult for _, ap in rows)),
        str(sum(ap.num_detections for _, ap in rows)),
        _percent(result.map_11point),
        _percent(result.map_area),
    )
    text = io.StringIO()
    # Wide enough for any class name, without colour or markup: a log file is no terminal.
    width = 90 + max(len(name) for name in result.per_class)
    Console(file=text, width=width, force_terminal=False, color_system=None, markup=False).print(table)
    return text.getvalue().rstrip("\n")


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _array(value: Any) -> np.ndarray:
    """A tensor (or MMDetection's box object) as a float64 array on the CPU."""
    return np.asarray(getattr(value, "tensor", value).detach().cpu().double())


def _boxes_and_labels(
    sample: Mapping[str, Any], key: str, image: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float64 [N, 4] and labels int64 [N] of one kind of instances, checked."""
    boxes = _array(sample[key]["bboxes"]).reshape(-1, 4)
    labels = _array(sample[key]["labels"]).astype(np.int64)
    if labels.shape != (len(boxes),):
        raise ValueError(
            f"image {image}: {key} has labels of shape {list(labels.shape)} for {len(boxes)} boxes"
        )
    if not np.isfinite(boxes).all():
        bad = boxes[~np.isfinite(boxes).all(axis=1)][0]
        raise ValueError(f"image {image}: {key} has the box {bad.tolist()}; has the model diverged?")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise ValueError(
            f"image {image}: {key} has the label {labels[outside][0]}, but the data set has {num_classes} classes; "
            "is num_classes of the bbox_head right?"
        )
    return boxes, labels


def _reaches_beyond(boxes: np.ndarray, ori_shape: Sequence[int] | None) -> bool:
    """Whether a 0-based box goes further than one pixel beyond an image of ``ori_shape`` (height, width)."""
    if ori_shape is None or len(boxes) == 0:
        return False
    height, width = ori_shape[:2]
    return bool((boxes[:, 2] > width).any() or (boxes[:, 3] > height).any())


def _by_class(
    results: list[dict[str, Any]], classes: list[str]
) -> tuple[dict[str, GroundTruth], dict[str, Detections]]:
    """Regroup per-image results into per-class arrays; detections keep image order, then the detector's order."""

    def gather(key: str) -> np.ndarray:
        return np.concatenate([r[key] for r in results])

    gt_image = np.repeat(np.arange(len(results)), [len(r["gt_labels"]) for r in results])
    det_image = np.repeat(np.arange(len(results)), [len(r["labels"]) for r in results])
    gt_labels, gt_boxes, difficult = gather("gt_labels"), gather("gt_boxes"), gather("difficult")
    labels, boxes, scores = gather("labels"), gather("boxes"), gather("scores")
    ground_truth = {}
    detections = {}
    for label, name in enumerate(classes):
        of_class = gt_labels == label
        ground_truth[name] = GroundTruth(gt_image[of_class], gt_boxes[of_class], difficult[of_class])
        of_class = labels == label
        detections[name] = Detections(det_image[of_class], boxes[of_class], scores[of_class])
    return ground_truth, detections
