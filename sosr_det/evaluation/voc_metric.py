"""VOC average precision as an mmengine metric: ``val_evaluator = dict(type='VOCDevkitMetric')``.

Takes the place of MMDetection's ``VOCMetric``, which rounds AP50 to three decimals of a fraction, matches at an
IoU of exactly the threshold, reports one of the two definitions of AP at a time, and drops classes without
ground truth (and predictions with labels beyond the classes) without a word.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS

from sosr_det.evaluation.all_metrics import evaluate_detections, extra_metrics
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.data_samples import ImageResult, read_sample, to_evaluation_set, without_padding
from sosr_det.evaluation.matching import IouComparison
from sosr_det.evaluation.saved_detections import write_detections
from sosr_det.evaluation.voc_ap import RecallThresholds, VOCResult
from sosr_det.evaluation.voc_table import format_table


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
    - ``num_images``: images evaluated;
    - with ``iou_thresholds=(0.75,)``: ``map_11point_iou75``, ``map_area_iou75``;
    - with ``coco=True``: ``coco_ap``, ``coco_ap50``, ``coco_ap75``, ``coco_ap_small``, ..., ``coco_ar_large``, the
      twelve numbers of :class:`sosr_det.evaluation.coco_ap.CocoAP`.

    A table per class goes to the log, in percent with two decimals, for display only.

    In distributed runs each image counts once: what the sampler repeats to give all processes equally many is dropped.
    Equal scores in different images keep the order in which mmengine deals the images out, which is the data set's.

    Args:
        iou_threshold: IoU that a match must exceed, 0 <= threshold < 1.
        recall_thresholds: ``'exact'``, or ``'arange'`` for the Python ports' floats
            (:func:`sosr_det.evaluation.voc_ap.evaluate_class`).
        iou_comparison: ``'>'``, or ``'>='`` as in ``VOCevaldet.m`` and MMDetection.
        iou_thresholds: More thresholds, to report means at.
        coco: Also COCO's numbers.
        save_to: File, such as ``<work_dir>/detections.npz``, for ground truth and detections of each evaluation, with
            image ids, sizes and paths as far as the samples have them; replaced each time, written by the main
            process. Boxes are as MMDetection has them, 0-based; in each class difficult ones come last.
            :func:`sosr_det.evaluation.saved_detections.read_detections_file` reads it.
        collect_device: ``'cpu'`` or ``'gpu'``, where distributed runs gather the results.
        prefix: Prefix of the metrics' names, ``'voc'`` if None.
        collect_dir: Folder that all ranks share, for gathering with ``collect_device='cpu'``.

    Raises:
        ValueError: For an unusable option; while evaluating, for NaN or infinite boxes or scores, predicted or
            true labels outside the classes (each named with its image), without any image, or for concatenated data
            sets whose classes differ.
    """

    default_prefix = "voc"

    def __init__(
        self,
        iou_threshold: float = 0.5,
        recall_thresholds: RecallThresholds = "exact",
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
        *,
        iou_comparison: IouComparison = ">",
        iou_thresholds: Sequence[float] = (),
        coco: bool = False,
        save_to: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.recall_thresholds: RecallThresholds = recall_thresholds
        self.iou_comparison: IouComparison = iou_comparison
        self.iou_threshold = iou_threshold
        self.iou_thresholds = tuple(float(threshold) for threshold in iou_thresholds)
        self.coco = coco
        self.save_to = save_to
        self._expected_num_images: int | None = None
        # Checks the options now rather than after the first epoch.
        nothing = EvaluationSet([""], [""], {"": GroundTruth.empty()}, {"": Detections.empty()})
        evaluate_detections(nothing, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "iou_thresholds": tuple(dict.fromkeys((float(self.iou_threshold), *self.iou_thresholds))),
            "recall_thresholds": self.recall_thresholds,
            "iou_comparison": self.iou_comparison,
            "coco": self.coco,
        }

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep boxes, labels and scores of each image; ``data_batch`` is not used."""
        num_classes = len(self._classes())
        for sample in data_samples:
            self.results.append(read_sample(sample, len(self.results), num_classes))

    def evaluate(self, size: int) -> dict[str, Any]:
        """Gather from all ranks and compute; ``size`` is the number of images in the data set."""
        self._expected_num_images = size
        # mmengine would cut off what is beyond size: repeated images only if the sampler puts them last.
        return super().evaluate(sys.maxsize)

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, Any]:
        """Metrics of the whole data set from what :meth:`process` kept."""
        classes = self._classes()
        if not results:
            raise ValueError(f"{type(self).__name__} has no images to evaluate")
        expected = len(results) if self._expected_num_images is None else self._expected_num_images
        results = without_padding(results, expected)
        data = to_evaluation_set(results, classes)
        if self.save_to is not None:
            write_detections(self.save_to, data)
        found = evaluate_detections(data, **self._options)
        result = found.first
        self._warn(results, result, expected)
        print_log("\n" + format_table(result), logger="current")
        metrics: dict[str, Any] = {"map_11point": result.map_11point, "map_area": result.map_area}
        metrics |= extra_metrics(found, self.iou_thresholds)
        for name, ap in result.per_class.items():
            metrics[f"ap_11point/{name}"] = ap.ap_11point
            metrics[f"ap_area/{name}"] = ap.ap_area
        metrics["num_images"] = len(results)
        return metrics

    def _classes(self) -> list[str]:
        # MMDetection's ConcatDataset gives a list where its parts differ in anything, such as the year of VOC.
        metas = self.dataset_meta if isinstance(self.dataset_meta, Sequence) else [self.dataset_meta]
        of_parts = [list((meta or {}).get("classes") or []) for meta in metas]
        if not of_parts or not all(of_parts):
            raise ValueError(
                f"{type(self).__name__} needs dataset_meta['classes'], the data set's class names"
            )
        for classes in of_parts:
            if classes != of_parts[0]:
                raise ValueError(
                    f"{type(self).__name__}: the concatenated data sets have different classes: {of_parts[0]} and "
                    f"{classes}. Give them the same metainfo=dict(classes=...)"
                )
        return of_parts[0]

    def _warn(self, results: list[ImageResult], result: VOCResult, expected: int) -> None:
        lines = []
        if len(results) < expected:
            lines.append(f"only {len(results)} of the data set's {expected} images were evaluated")
        counts = Counter(r.name for r in results if r.name is not None)
        repeated = [image for image, count in counts.items() if count > 1]
        if repeated:
            lines.append(f"{len(repeated)} images were evaluated more than once, first {repeated[0]}")
        beyond = [r.name or f"number {index}" for index, r in enumerate(results) if r.reaches_beyond]
        if beyond:
            lines.append(
                f"ground truth reaches beyond its image in {len(beyond)} images, first {beyond[0]}. If the test "
                "pipeline has LoadAnnotations before Resize, the boxes were resized and the result is wrong"
            )
        absent = result.classes_without_ground_truth
        if absent:
            detections = ", ".join(
                f"{name} ({result.per_class[name].num_detections} detections)" for name in absent
            )
            lines.append(
                f"no ground truth (or only difficult) for {len(absent)} of {len(result.per_class)} classes: "
                f"{detections}. Their AP is NaN and the means are over the others"
            )
        if lines:
            print_log(f"{type(self).__name__}: " + "; ".join(lines), logger="current", level=logging.WARNING)
