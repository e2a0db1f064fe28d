"""From MMDetection's data samples to an :class:`~sosr_det.evaluation.boxes.EvaluationSet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What one data sample says, checked; plain arrays, so that processes can exchange it.

    Attributes:
        image_id: The data set's name of the image, or None if the sample does not say.
        path: The image's file, or None.
        size: Width and height of the original image, or None.
        gt_boxes: Ground truth, those to be found before the difficult ones; float64 [N, 4].
        gt_labels: int64 [N]; ``difficult``: bool [N].
        boxes: Detections in the detector's order; float64 [M, 4].
        labels: int64 [M]; ``scores``: float64 [M].
    """

    image_id: str | None
    path: str | None
    size: tuple[int, int] | None
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    difficult: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @property
    def name(self) -> str | None:
        """What tells the image from others: two folders may use the same ids."""
        return self.path or self.image_id

    @property
    def reaches_beyond(self) -> bool:
        """Whether a 0-based ground-truth box goes further than one pixel beyond the image."""
        if self.size is None or len(self.gt_boxes) == 0:
            return False
        return bool((self.gt_boxes[:, 2:] > self.size).any())


def read_sample(sample: Mapping[str, Any], number: int, num_classes: int) -> ImageResult:
    """Take boxes, labels and scores out of a data sample.

    Args:
        sample: With ``gt_instances`` (``bboxes``, ``labels``), ``ignored_instances`` (the same; difficult) and
            ``pred_instances`` (``bboxes``, ``labels``, ``scores``), boxes ``x1, y1, x2, y2`` in pixels of the original
            image; and as far as the pipeline keeps them ``img_id``, ``img_path`` and ``ori_shape`` (height, width).
        number: Which sample it is, for error messages where it has no name.
        num_classes: Labels must be smaller.

    Raises:
        ValueError: NaN or infinite boxes or scores, labels outside the classes, or shapes that do not fit, named with
            the image.
    """
    image_id, path = (None if sample.get(key) is None else str(sample[key]) for key in ("img_id", "img_path"))
    what = path or image_id or f"number {number}"
    truth = _boxes_and_labels(sample, "gt_instances", what, num_classes)
    ignored = _boxes_and_labels(sample, "ignored_instances", what, num_classes)
    found = _boxes_and_labels(sample, "pred_instances", what, num_classes)
    scores = _array(sample["pred_instances"]["scores"])
    if scores.shape != found[1].shape:
        raise ValueError(
            f"image {what}: pred_instances has scores of shape {list(scores.shape)} for {len(found[1])} boxes"
        )
    if not np.isfinite(scores).all():
        bad = scores[~np.isfinite(scores)][0]
        raise ValueError(f"image {what}: pred_instances has the score {bad}; has the model diverged?")
    shape = sample.get("ori_shape")
    return ImageResult(
        image_id=image_id,
        path=path,
        size=None if shape is None else (int(shape[1]), int(shape[0])),
        gt_boxes=np.concatenate([truth[0], ignored[0]]),
        gt_labels=np.concatenate([truth[1], ignored[1]]),
        difficult=np.repeat([False, True], [len(truth[1]), len(ignored[1])]),
        boxes=found[0],
        labels=found[1],
        scores=scores,
    )


def without_padding(results: Sequence[ImageResult], size: int) -> list[ImageResult]:
    """Drop what samplers repeat to give all processes equally many images.

    Repeated images are dropped from behind, by name, until ``size`` are left, whatever the order in which a sampler
    deals them out. Images without a name cannot be told apart: then what is beyond ``size`` is dropped, which is right
    for mmengine's own sampler, whose repetitions come last.

    Args:
        results: Of all processes, in turns.
        size: Images in the data set. With fewer results, or as many, all are kept.
    """
    surplus = len(results) - size
    if surplus <= 0:
        return list(results)
    seen: set[str] = set()
    repeated = []
    for index, result in enumerate(results):
        if result.name is not None and result.name in seen:
            repeated.append(index)
        elif result.name is not None:
            seen.add(result.name)
    dropped = set(repeated[-surplus:])
    return [result for index, result in enumerate(results) if index not in dropped][:size]


def to_evaluation_set(results: Sequence[ImageResult], class_names: Sequence[str]) -> EvaluationSet:
    """One set of all images, in the given order; detections keep their order within an image.

    Sizes and paths are there if every image has one. Image ids that are missing or not unique (two folders with the
    same ids) give way to paths, else to ``<id> (2)`` and so on.
    """
    gt_image = _image_index([len(r.gt_labels) for r in results])
    det_image = _image_index([len(r.labels) for r in results])
    gt_labels = np.concatenate([r.gt_labels for r in results])
    gt_boxes = np.concatenate([r.gt_boxes for r in results])
    difficult = np.concatenate([r.difficult for r in results])
    labels = np.concatenate([r.labels for r in results])
    boxes = np.concatenate([r.boxes for r in results])
    scores = np.concatenate([r.scores for r in results])
    ground_truth, detections = {}, {}
    for label, name in enumerate(class_names):
        of_class = gt_labels == label
        ground_truth[name] = GroundTruth(gt_image[of_class], gt_boxes[of_class], difficult[of_class])
        of_class = labels == label
        detections[name] = Detections(det_image[of_class], boxes[of_class], scores[of_class])
    sizes = [r.size for r in results]
    paths = [r.path for r in results]
    return EvaluationSet(
        class_names,
        _unique_ids(results),
        ground_truth,
        detections,
        None if None in sizes else np.array(sizes, np.int64).reshape(-1, 2),
        None if None in paths else [str(path) for path in paths],
    )


def _image_index(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def _unique_ids(results: Sequence[ImageResult]) -> list[str]:
    for names in ([r.image_id for r in results], [r.path for r in results]):
        if None not in names and len(set(names)) == len(names):
            return [str(name) for name in names]
    given = [r.image_id or r.path or f"number {index}" for index, r in enumerate(results)]
    taken = set(given)
    count: Counter[str] = Counter()
    unique = []
    for name in given:
        count[name] += 1
        candidate = name if count[name] == 1 else f"{name} ({count[name]})"
        while count[name] > 1 and candidate in taken:
            count[name] += 1
            candidate = f"{name} ({count[name]})"
        taken.add(candidate)
        unique.append(candidate)
    return unique


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
