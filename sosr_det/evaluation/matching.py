"""Which detection found which ground truth: the rules 2 to 4 of :mod:`sosr_det.evaluation.voc_ap`, for one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.boxes import Detections, GroundTruth

# Detection/ground-truth pairs whose IoU is computed at once; bounds the memory to some tens of megabytes.
_PAIRS_PER_CHUNK = 500_000


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of each detection; all arrays [M], in the order in which the detections are visited.

    Attributes:
        order: Where each stands among the detections given: by descending score, equal scores as given; int64.
        best_iou: Highest IoU with any ground truth of its image, 0 to 1; 0 where there is none; float64.
        best: Which ground truth that is, the first of equals; -1 where the image has none; int64.
        true_positive: Found a ground truth of its own; bool.
        ignored: Its best ground truth is difficult, so that it counts as neither right nor wrong; bool.
    """

    order: np.ndarray
    best_iou: np.ndarray
    best: np.ndarray
    true_positive: np.ndarray
    ignored: np.ndarray


def match_detections(ground_truth: GroundTruth, detections: Detections, iou_threshold: float) -> Matches:
    """Match the detections of one class; what is neither a true positive nor ignored is a false positive.

    Args:
        ground_truth: Every box of the class, over all images; taken as checked.
        detections: Every detection of the class; finite scores.
        iou_threshold: IoU that a match must exceed, 0 (any overlap) <= threshold < 1.
    """
    # Stable: detections with equal scores keep the given order.
    order = np.argsort(-detections.scores, kind="stable")
    best_iou, best = best_ground_truth(
        detections.image_index[order], detections.boxes[order], ground_truth.image_index, ground_truth.boxes
    )
    matched = best_iou > iou_threshold
    ignored = np.zeros(len(order), bool)
    ignored[matched] = ground_truth.difficult[best[matched]]

    # Of the detections whose best box is the same, the first one (highest score) takes it.
    claims = np.flatnonzero(matched & ~ignored)
    _, first_claims = np.unique(best[claims], return_index=True)
    true_positive = np.zeros(len(order), bool)
    true_positive[claims[first_claims]] = True
    return Matches(order, best_iou, best, true_positive, ignored)


def best_ground_truth(
    det_image: np.ndarray, det_boxes: np.ndarray, gt_image: np.ndarray, gt_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the highest IoU in its image and the (first) ground truth that has it.

    Returns:
        ``iou`` float64 [M] (0 without any ground truth in the image) and ``index`` int64 [M] into
        ``gt_boxes`` (-1 where there is none).
    """
    iou = np.zeros(len(det_image))
    index = np.full(len(det_image), -1, np.int64)
    # Ground truth grouped by image; stable, so that the first of equals stays first.
    gt_order = np.argsort(gt_image, kind="stable")
    images, starts, counts = np.unique(gt_image[gt_order], return_index=True, return_counts=True)
    if len(images) == 0:
        return iou, index
    group = np.minimum(np.searchsorted(images, det_image), len(images) - 1)
    with_gt = np.flatnonzero(images[group] == det_image)
    num_candidates = counts[group[with_gt]]

    # Each chunk holds all pairs of some detections with the ground truth of their images, one after another.
    chunk_of = (np.cumsum(num_candidates) - 1) // _PAIRS_PER_CHUNK
    boundaries = np.flatnonzero(np.diff(chunk_of)) + 1
    for rows, repeats in zip(
        np.split(with_gt, boundaries), np.split(num_candidates, boundaries), strict=True
    ):
        if len(rows) == 0:
            continue
        segment_starts = np.cumsum(repeats) - repeats
        within = np.arange(repeats.sum()) - np.repeat(segment_starts, repeats)
        pair_gt = gt_order[np.repeat(starts[group[rows]], repeats) + within]
        pair_iou = pixel_inclusive_iou(det_boxes[np.repeat(rows, repeats)], gt_boxes[pair_gt])
        best = np.maximum.reduceat(pair_iou, segment_starts)
        first_best = np.minimum.reduceat(
            np.where(pair_iou == np.repeat(best, repeats), np.arange(len(pair_iou)), len(pair_iou)),
            segment_starts,
        )
        iou[rows] = best
        index[rows] = pair_gt[first_best]
    return iou, index


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
