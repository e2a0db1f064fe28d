"""Average precision when every image counts a given number of times: the inner loop of a bootstrap over images.

Resampling images with replacement changes nothing about which detection found which ground truth, so a class is matched
once. An image that is drawn w times contributes its detections and ground truth w times; average precision then follows
from sums of multiplicities along the detections by descending score.

Only true positives need to be looked at: between two of them precision falls, so it is never the highest one at or
beyond any recall. Of the w copies of a true positive, the last has the highest precision.

Equal scores: the copies of a detection follow one another, in the place that the detection has among the given ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.boxes import Detections, GroundTruth
from sosr_det.evaluation.matching import match_detections

# Detections times resamples that are held at once.
_CELLS_PER_CHUNK = 8_000_000
_LEVELS = 10  # recall levels 0/10, 1/10, ..., 10/10


@dataclass(frozen=True, eq=False)
class RankedClass:
    """One class, matched and ranked.

    Attributes:
        image_index: Image of each detection that is not ignored, by descending score, up to the last true positive;
            int64 [M].
        segment_start: Where in it the stretch begins that ends with each true positive; int64 [T].
        true_positive_image: Image of each true positive; int64 [T].
        image_with_ground_truth: Images with ground truth that is not difficult; int64 [G].
        ground_truth_count: How much each of those has; int64 [G].
    """

    image_index: np.ndarray
    segment_start: np.ndarray
    true_positive_image: np.ndarray
    image_with_ground_truth: np.ndarray
    ground_truth_count: np.ndarray


def rank_class(ground_truth: GroundTruth, detections: Detections, iou_threshold: float = 0.5) -> RankedClass:
    """Match the detections of one class by the rules of :mod:`sosr_det.evaluation.voc_ap`."""
    matches = match_detections(ground_truth, detections, iou_threshold)
    counted = ~matches.ignored
    image_index = detections.image_index[matches.order][counted]
    hits = np.flatnonzero(matches.true_positive[counted])
    images, counts = np.unique(ground_truth.image_index[~ground_truth.difficult], return_counts=True)
    return RankedClass(
        image_index[: hits[-1] + 1] if len(hits) else image_index[:0],
        np.concatenate([[0], hits[:-1] + 1]) if len(hits) else hits,
        image_index[hits],
        images,
        counts,
    )


def weighted_ap(ranked: RankedClass, multiplicity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of one class in many resamples.

    Args:
        ranked: The class.
        multiplicity: How often each image counts in each resample; int32 [num_images, B], >= 0.

    Returns:
        11-point and area average precision as :func:`sosr_det.evaluation.voc_ap.evaluate_class` defines them; float64
        [B] each, fractions; NaN in a resample without ground truth of the class.
    """
    num_resamples = multiplicity.shape[1]
    width = max(1, _CELLS_PER_CHUNK // max(1, len(ranked.image_index)))
    parts = [
        _weighted_ap(ranked, multiplicity[:, first : first + width])
        for first in range(0, num_resamples, width)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _weighted_ap(ranked: RankedClass, multiplicity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_resamples = multiplicity.shape[1]
    num_ground_truth = (
        multiplicity[ranked.image_with_ground_truth] * ranked.ground_truth_count[:, None]
    ).sum(axis=0)
    absent = num_ground_truth == 0
    num_hits = len(ranked.true_positive_image)
    if num_hits == 0:
        ap = np.where(absent, np.nan, 0.0)
        return ap, ap.copy()

    # Rows are true positives, columns resamples.
    copies = multiplicity[ranked.true_positive_image]
    found = np.cumsum(copies, axis=0)
    seen = np.cumsum(np.add.reduceat(multiplicity[ranked.image_index], ranked.segment_start, axis=0), axis=0)
    precision = np.divide(found, seen, out=np.zeros(found.shape), where=seen > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]

    columns = np.arange(num_resamples)
    total = np.zeros(num_resamples)
    found *= _LEVELS
    for level in range(_LEVELS + 1):
        reached = (found < level * num_ground_truth).sum(axis=0)
        within = reached < num_hits
        total[within] += envelope[reached[within], columns[within]]
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (copies * envelope).sum(axis=0) / num_ground_truth
    eleven = total / (_LEVELS + 1)
    eleven[absent] = np.nan
    area[absent] = np.nan
    return eleven, area
