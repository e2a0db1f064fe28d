"""Detections and ground truth that cannot be evaluated, named with their class and their first bad entry."""

from __future__ import annotations

import numpy as np

from sosr_det.evaluation.boxes import Detections, GroundTruth

# Pixels. No image is so large, and far beyond it areas overflow and no IoU is defined.
MAX_COORDINATE = 1e9
BEYOND = f"a coordinate (or its negative) greater than {MAX_COORDINATE:.0e} pixels"


def within_bounds(boxes: np.ndarray) -> np.ndarray:
    """Which boxes [..., 4] have finite coordinates of at most ``MAX_COORDINATE`` either way; bool [...]."""
    return (np.abs(boxes) <= MAX_COORDINATE).all(axis=-1)


def check_class(
    ground_truth: GroundTruth, detections: Detections, class_name: str = "", num_images: int | None = None
) -> None:
    """Check one class's arrays.

    Raises:
        ValueError: wrong shapes, NaN or infinite boxes or scores, coordinates beyond ``MAX_COORDINATE``, negative image
            indices, indices from ``num_images`` on if that is given, or a ground-truth box with ``x2 < x1`` or
            ``y2 < y1``.
    """
    what = f"class {class_name!r}: " if class_name else ""
    _check_boxes(ground_truth.image_index, ground_truth.boxes, f"{what}ground truth", num_images)
    _check_boxes(detections.image_index, detections.boxes, f"{what}detections", num_images)
    _check_ground_truth(ground_truth, what)
    _check_scores(detections, what)


def _check_boxes(image_index: np.ndarray, boxes: np.ndarray, what: str, num_images: int | None) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what}: boxes must have shape [N, 4], got {list(boxes.shape)}")
    if image_index.shape != (len(boxes),):
        raise ValueError(
            f"{what}: image_index must have shape [{len(boxes)}], one per box, got {list(image_index.shape)}"
        )
    if not np.issubdtype(image_index.dtype, np.integer):
        raise ValueError(f"{what}: image_index must hold integers, got {image_index.dtype}")
    # By extremes first: no array as long as the input is needed where all is well.
    limit = np.inf if num_images is None else num_images
    if len(image_index) and not (image_index.min() >= 0 and image_index.max() < limit):
        bad = (image_index < 0) | (image_index >= limit)
        allowed = "at least 0" if num_images is None else f"in 0..{num_images - 1}"
        raise ValueError(f"{what}: image_index must be {allowed}, got {image_index[bad.argmax()]}")
    if not _all_finite(boxes):
        i = int((~np.isfinite(boxes).all(axis=1)).argmax())
        raise ValueError(f"{what}: box {boxes[i].tolist()} in image {image_index[i]} is not finite")
    if boxes.size and max(-boxes.min(), boxes.max()) > MAX_COORDINATE:
        i = int((~within_bounds(boxes)).argmax())
        raise ValueError(f"{what}: box {boxes[i].tolist()} in image {image_index[i]} has {BEYOND}")


def _check_ground_truth(ground_truth: GroundTruth, what: str) -> None:
    if ground_truth.difficult.shape != (len(ground_truth),):
        raise ValueError(
            f"{what}ground truth: difficult must have shape [{len(ground_truth)}], one per box, "
            f"got {list(ground_truth.difficult.shape)}"
        )
    boxes = ground_truth.boxes
    inverted = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if inverted.any():
        i = int(inverted.argmax())
        raise ValueError(
            f"{what}ground truth: box {boxes[i].tolist()} in image {ground_truth.image_index[i]} "
            "has x2 < x1 or y2 < y1 and could never be found"
        )


def _check_scores(detections: Detections, what: str) -> None:
    if detections.scores.shape != (len(detections),):
        raise ValueError(
            f"{what}detections: scores must have shape [{len(detections)}], one per box, "
            f"got {list(detections.scores.shape)}"
        )
    if not _all_finite(detections.scores):
        i = int((~np.isfinite(detections.scores)).argmax())
        raise ValueError(
            f"{what}detections: score {detections.scores[i]} in image {detections.image_index[i]} is not finite"
        )


def _all_finite(array: np.ndarray) -> bool:
    # NaN and infinity spread to the extremes.
    return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))
