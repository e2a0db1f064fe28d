"""Which detection found which ground truth: the rules 2 to 4 of :mod:`sosr_det.evaluation.voc_ap`, for one class.

In two steps, so that any number of IoU thresholds costs little more than one: :func:`compare` looks for the best ground
truth of each detection, which does not depend on the threshold, and :func:`apply_threshold` says who found what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from sosr_det.evaluation.boxes import Detections, GroundTruth

IouComparison = Literal[">", ">="]

# Detections looked at, and pairs with ground truth whose IoU is computed, at once: bounds the memory to some tens of
# megabytes, and is faster than more, which would not stay in the processor's cache.
_ROWS_PER_BLOCK = 65_536
_PAIRS_PER_CHUNK = 65_536


@dataclass(frozen=True, eq=False)
class Comparison:
    """What each detection is matched with, whatever the threshold; all arrays [M], in the order of visiting.

    Attributes:
        order: Where each stands among the detections given: by descending score, equal scores as given; int64.
        best_iou: Highest IoU with any ground truth of its image, 0 to 1; 0 where there is none; float64.
        best: Which ground truth that is, the first of equals; -1 where the image has none; int32.
    """

    order: np.ndarray
    best_iou: np.ndarray
    best: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches(Comparison):
    """What became of each detection; all arrays [M], in the order in which the detections are visited.

    Attributes:
        order: As in :class:`Comparison`, like ``best_iou`` and ``best``.
        true_positive: Found a ground truth of its own; bool.
        ignored: Its best ground truth is difficult, so that it counts as neither right nor wrong; bool.
    """

    true_positive: np.ndarray
    ignored: np.ndarray


def match_detections(
    ground_truth: GroundTruth,
    detections: Detections,
    iou_threshold: float,
    iou_comparison: IouComparison = ">",
) -> Matches:
    """Match the detections of one class; what is neither a true positive nor ignored is a false positive.

    Args:
        ground_truth: Every box of the class, over all images; taken as checked.
        detections: Every detection of the class; finite scores.
        iou_threshold: IoU that a match must exceed, 0 (any overlap) <= threshold < 1.
        iou_comparison: ``'>='`` if it need only reach it; 0 < threshold then.
    """
    return apply_threshold(ground_truth, compare(ground_truth, detections), iou_threshold, iou_comparison)


def compare(ground_truth: GroundTruth, detections: Detections) -> Comparison:
    """Sort the detections of one class and find the best ground truth of each; arguments as above."""
    # Stable: detections with equal scores keep the given order.
    order = np.argsort(-detections.scores, kind="stable")
    best_iou, best = best_ground_truth(
        detections.image_index, detections.boxes, ground_truth.image_index, ground_truth.boxes
    )
    return Comparison(order, best_iou[order], best[order])


def apply_threshold(
    ground_truth: GroundTruth,
    comparison: Comparison,
    iou_threshold: float,
    iou_comparison: IouComparison = ">",
) -> Matches:
    """Say which detections found something; arguments as above."""
    best_iou, best = comparison.best_iou, comparison.best
    matched = best_iou > iou_threshold if iou_comparison == ">" else best_iou >= iou_threshold
    claims = np.flatnonzero(matched)
    of_difficult = ground_truth.difficult[best[claims]]
    ignored = np.zeros(len(best), bool)
    ignored[claims[of_difficult]] = True

    # Of the detections whose best box is the same, the first one (highest score) takes it. Written from behind: of
    # several values for one place the last one stays.
    claims = claims[~of_difficult][::-1]
    taken_by = np.full(len(ground_truth), -1, np.int64)
    taken_by[best[claims]] = claims
    true_positive = np.zeros(len(best), bool)
    true_positive[taken_by[taken_by >= 0]] = True
    return Matches(comparison.order, best_iou, best, true_positive, ignored)


def best_ground_truth(
    det_image: np.ndarray, det_boxes: np.ndarray, gt_image: np.ndarray, gt_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the highest IoU in its image and the (first) ground truth that has it.

    Returns:
        ``iou`` float64 [M] (0 without any ground truth in the image) and ``index`` int32 [M] into
        ``gt_boxes`` (-1 where there is none).
    """
    iou = np.zeros(len(det_image))
    index = np.full(len(det_image), -1, np.int32)
    # Ground truth grouped by image; stable, so that the first of equals stays first.
    gt_order = np.argsort(gt_image, kind="stable")
    images, starts, counts = np.unique(gt_image[gt_order], return_index=True, return_counts=True)
    if len(images) == 0:
        return iou, index
    for rows, first_gt, repeats in _chunks_of_pairs(det_image, images, starts, counts):
        segment_starts = np.cumsum(repeats) - repeats
        within = np.arange(repeats.sum()) - np.repeat(segment_starts, repeats)
        pair_gt = gt_order[np.repeat(first_gt, repeats) + within]
        pair_iou = pixel_inclusive_iou(det_boxes[np.repeat(rows, repeats)], gt_boxes[pair_gt])
        best = np.maximum.reduceat(pair_iou, segment_starts)
        first_best = np.minimum.reduceat(
            np.where(pair_iou == np.repeat(best, repeats), np.arange(len(pair_iou)), len(pair_iou)),
            segment_starts,
        )
        iou[rows] = best
        index[rows] = pair_gt[first_best]
    return iou, index


def _chunks_of_pairs(
    det_image: np.ndarray, images: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of detections that have ground truth in their image, where it starts, and how much of it there is."""
    for begin in range(0, len(det_image), _ROWS_PER_BLOCK):
        block = det_image[begin : begin + _ROWS_PER_BLOCK]
        group = np.minimum(np.searchsorted(images, block), len(images) - 1)
        with_gt = np.flatnonzero(images[group] == block)
        if len(with_gt) == 0:
            continue
        group = group[with_gt]
        repeats = counts[group]
        chunk_of = (np.cumsum(repeats) - 1) // _PAIRS_PER_CHUNK
        boundaries = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1), len(with_gt)]
        for low, high in pairwise(boundaries):
            yield begin + with_gt[low:high], starts[group[low:high]], repeats[low:high]


def pixel_inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of corresponding boxes [P, 4], [P, 4] → [P]; ``x2 - x1 + 1`` pixels wide; 0 without overlap."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + 1
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + 1
    overlap = (width > 0) & (height > 0)
    intersection = width * height
    union = pixel_inclusive_area(a) + pixel_inclusive_area(b) - intersection
    return np.divide(intersection, union, out=np.zeros(len(a)), where=overlap)


def pixel_inclusive_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
