"""Average precision from flags alone: which detections, by descending score, are right.

What :func:`~sosr_det.evaluation.voc_ap.evaluate_class` computes from boxes, for detections that were changed, removed
or ignored after matching.
"""

from __future__ import annotations

import numpy as np


def area_ap(true_positive: np.ndarray, num_ground_truth: int) -> float:
    """AP as the area under the curve (VOC2010), a fraction; see :mod:`sosr_det.evaluation.voc_ap`."""
    envelope, _ = _envelope(true_positive)
    return float(envelope[true_positive].sum() / num_ground_truth)


def eleven_point_ap(true_positive: np.ndarray, num_ground_truth: int) -> float:
    """AP as the mean over eleven recall levels (VOC2007), a fraction; levels compared exactly."""
    return float(precision_at_recalls(true_positive, num_ground_truth, 10).sum() / 11)


def precision_at_recalls(true_positive: np.ndarray, num_ground_truth: int, steps: int) -> np.ndarray:
    """Highest precision at recall k/steps or beyond, k = 0..steps; 0 where that recall is not reached."""
    envelope, found = _envelope(true_positive)
    needed = [-(-k * num_ground_truth // steps) for k in range(steps + 1)]  # rounded up, in integers
    return np.append(envelope, 0.0)[np.searchsorted(found, needed, side="left")]


def _envelope(true_positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest precision at each place or after it, and the true positives up to there."""
    found = np.cumsum(true_positive)
    precision = found / np.arange(1, len(found) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1], found
