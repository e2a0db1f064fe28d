"""COCO's average precision of the same detections: AP over IoU 0.50 to 0.95, at 0.50 and 0.75, and by object size.

Computed by ``faster-coco-eval``, whose numbers are those of ``pycocotools`` to the last digit in a tenth of its time
(measured on the 101,139 detections of a YOLOv2 on VOC2007 test: 1.1 s and 10.5 s). Here are the translation of boxes
and the averages. How COCO differs from VOC, and what is chosen where VOC's data leave a choice:

- **Boxes** become ``x, y, w, h`` with ``w = x2 - x1 + 1``: COCO's continuous IoU of these is VOC's pixel-inclusive IoU,
  so that both kinds of AP judge the same overlaps. Tools that leave out the ``+ 1`` get other IoUs.
- **Difficult** objects become ``iscrowd = 1``, the only flag that COCO's evaluators honour: any number of detections
  may fall on one without being right or wrong, as in VOC. Its overlap is then the share of the *detection* that it
  covers, which ignores slightly more than VOC does. An ``ignore`` flag, as in the COCO-style files of VOC that are in
  circulation, is overwritten by ``pycocotools``: difficult objects count as missed there (the YOLOv2: AP 36.5
  instead of 42.2).
- **Matching** needs IoU >= threshold, and a detection whose best object is taken may take the next best.
- **Precision** is averaged over 101 levels of recall.
- **At most 100 detections** per image and class count, those of highest score (AR1 and AR10: 1 and 10). VOC AP
  has no such limit; :attr:`CocoSummary.num_beyond_limit` says how many were left out.
- **Sizes** are areas of the boxes, ``w * h`` in pixels (COCO itself takes the area of the segmentation): small up to
  32^2, medium from there to 96^2, large from there; both ends included.

Classes are evaluated one after another, which gives the same averages and bounds the memory: about 3 kB for each
detection of the largest class.

Sources: https://cocodataset.org/#detection-eval; ``pycocotools/cocoeval.py``; Lin et al., "Microsoft COCO: Common
Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.input_checks import check_class

Library = Literal["faster-coco-eval", "pycocotools"]

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
MAX_DETECTIONS = (1, 10, 100)
_SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class CocoAP:
    """COCO's twelve numbers, fractions 0 to 1, unrounded; NaN where there is no object of the kind.

    Attributes:
        ap: Average precision, mean over the IoU thresholds 0.50, 0.55, ..., 0.95.
        ap50: At 0.50; ``ap75``: at 0.75.
        ap_small: ``ap`` of small objects; ``ap_medium``, ``ap_large``: of medium and large ones.
        ar1: Highest recall with one detection per image and class, mean over the IoU thresholds; ``ar10``,
            ``ar100``: with 10 and 100.
        ar_small: ``ar100`` of small objects; ``ar_medium``, ``ar_large``: of medium and large ones.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


COCO_NAMES = tuple(each.name for each in fields(CocoAP))


@dataclass(frozen=True)
class CocoSummary(CocoAP):
    """The numbers of a data set: means over all classes that have objects of the kind.

    Attributes:
        per_class: The same numbers of each class.
        num_beyond_limit: Detections left out because their image has more than 100 of the class.
    """

    per_class: dict[str, CocoAP] = field(repr=False)
    num_beyond_limit: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN is None."""
        values = {name: value for name, value in asdict(self).items() if name != "per_class"}
        per_class = {name: _without_nan(asdict(ap)) for name, ap in self.per_class.items()}
        return _without_nan(values) | {"max_detections": list(MAX_DETECTIONS), "per_class": per_class}


def evaluate_coco(data: EvaluationSet, library: Library = "faster-coco-eval") -> CocoSummary:
    """COCO's average precision and recall of a set.

    Args:
        library: Who matches and accumulates; ``'pycocotools'`` is the original, for whoever doubts the other.

    Raises:
        ValueError: An unknown library, and as :func:`sosr_det.evaluation.voc_ap.evaluate_class`.
    """
    if library not in get_args(Library):
        raise ValueError(f"library must be one of {get_args(Library)}, got {library!r}")
    precision, recall = [], []
    beyond = 0
    for name in data.class_names:
        truth, found = data.ground_truth[name], data.detections[name]
        check_class(truth, found, name, data.num_images)
        of_class = _accumulate(truth, found, library)
        precision.append(of_class[0])
        recall.append(of_class[1])
        per_image = np.bincount(found.image_index, minlength=1)
        beyond += int(np.maximum(per_image - MAX_DETECTIONS[-1], 0).sum())
    per_class = {
        name: CocoAP(**_summary(p, r)) for name, p, r in zip(data.class_names, precision, recall, strict=True)
    }
    mean = _summary(np.concatenate(precision, axis=2), np.concatenate(recall, axis=1))
    return CocoSummary(**mean, per_class=per_class, num_beyond_limit=beyond)


def _accumulate(truth: GroundTruth, found: Detections, library: Library) -> tuple[np.ndarray, np.ndarray]:
    """Precision [IoUs, recall levels, 1, sizes, limits] and recall [IoUs, 1, sizes, limits]; -1 where nothing is."""
    # Imported here: not where only VOC AP is wanted.
    if library == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluator

        options: dict[str, Any] = {"print_function": _say_nothing}
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluator

        options = {}
    images = np.union1d(truth.image_index, found.image_index).tolist()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        sets = []
        for annotations in (
            _annotations(truth.image_index, truth.boxes, "iscrowd", truth.difficult.astype(int)),
            _annotations(found.image_index, found.boxes, "score", found.scores),
        ):
            coco = COCO(**options)
            coco.dataset = {
                "images": [{"id": image} for image in images or [0]],  # not without any
                "categories": [{"id": 1}],
                "annotations": annotations,
            }
            coco.createIndex()
            sets.append(coco)
        evaluator = Evaluator(*sets, iouType="bbox", **options)
        evaluator.params.maxDets = list(MAX_DETECTIONS)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def _annotations(
    image_index: np.ndarray, boxes: np.ndarray, key: str, values: np.ndarray
) -> list[dict[str, Any]]:
    # A box that covers nothing has no area rather than a negative one, which would be outside all sizes and ignored.
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2] + 1, 0)
    corners_and_sizes = np.concatenate([boxes[:, :2], sizes], axis=1).tolist()
    areas = sizes.prod(axis=1).tolist()
    rows = zip(image_index.tolist(), corners_and_sizes, areas, values.tolist(), strict=True)
    return [
        # Numbered from 1: an id of 0 would mean "not matched".
        {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
            key: value,
        }
        for number, (image, box, area, value) in enumerate(rows, 1)
    ]


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    ap50, ap75 = (precision[IOU_THRESHOLDS.index(threshold), ..., 0, -1] for threshold in (0.5, 0.75))
    summary = {"ap": _mean(precision[..., 0, -1]), "ap50": _mean(ap50), "ap75": _mean(ap75)}
    for index, size in enumerate(_SIZES[1:], 1):
        summary[f"ap_{size}"] = _mean(precision[..., index, -1])
    for index, limit in enumerate(MAX_DETECTIONS):
        summary[f"ar{limit}"] = _mean(recall[..., 0, index])
    for index, size in enumerate(_SIZES[1:], 1):
        summary[f"ar_{size}"] = _mean(recall[..., index, -1])
    return summary


def _mean(values: np.ndarray) -> float:
    """Mean of what is there; the evaluators mark absent classes and sizes with -1."""
    present = values[values > -1]
    return float(present.mean()) if present.size else math.nan


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def _say_nothing(*_: object) -> None:
    """Instead of the evaluator's progress."""
