"""The score from which on a class's detections are worth believing: where F1 is highest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.errors.outcomes import IGNORED, TRUE_POSITIVE, Outcomes


@dataclass(frozen=True)
class OperatingPoint:
    """Detections with ``score >= threshold`` against the objects; all NaN where no detection finds anything.

    Attributes:
        threshold: Lowest score that is kept.
        f1: Harmonic mean of precision and recall there, the highest over all thresholds; 0 to 1.
        precision: Share of right ones among what is kept; ignored detections do not count.
        recall: Share of the objects found.
    """

    threshold: float = math.nan
    f1: float = math.nan
    precision: float = math.nan
    recall: float = math.nan


def best_f1(scores: np.ndarray, true_positive: np.ndarray, num_ground_truth: int) -> OperatingPoint:
    """The threshold with the highest F1; the highest of those with the same.

    Args:
        scores: Scores that count, descending; float64 [M].
        true_positive: Which of them are right; bool [M].
        num_ground_truth: Objects to be found.
    """
    if num_ground_truth == 0 or not true_positive.any():
        return OperatingPoint()
    # Equal scores are kept or dropped together.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    found = np.cumsum(true_positive)[last]
    f1 = 2 * found / (last + 1 + num_ground_truth)
    best = int(f1.argmax())
    return OperatingPoint(
        threshold=float(scores[last[best]]),
        f1=float(f1[best]),
        precision=float(found[best] / (last[best] + 1)),
        recall=float(found[best] / num_ground_truth),
    )


def operating_points(outcomes: Outcomes) -> tuple[dict[str, OperatingPoint], OperatingPoint]:
    """The operating point of each class, and that of all classes' detections together."""
    order = np.argsort(-outcomes.score, kind="stable")
    order = order[outcomes.outcome[order] != IGNORED]
    right = outcomes.outcome[order] == TRUE_POSITIVE
    num_objects = outcomes.num_ground_truth
    pooled = best_f1(outcomes.score[order], right, int(num_objects.sum()))

    by_class = order[np.argsort(outcomes.label[order], kind="stable")]
    ends = np.searchsorted(outcomes.label[by_class], np.arange(len(num_objects)), side="right")
    parts = np.split(by_class, ends)
    return {
        name: best_f1(
            outcomes.score[parts[i]], outcomes.outcome[parts[i]] == TRUE_POSITIVE, int(num_objects[i])
        )
        for i, name in enumerate(outcomes.class_names)
    }, pooled


def confident_detections(
    outcomes: Outcomes, points: dict[str, OperatingPoint], pooled: OperatingPoint
) -> np.ndarray:
    """Detections at or above their class's threshold; bool [M].

    A class that has no threshold of its own (nothing to find, or nothing found) takes that of all classes together.
    If nothing was found at all, no detection is confident.
    """
    thresholds = np.array([points[name].threshold for name in outcomes.class_names])
    thresholds[np.isnan(thresholds)] = pooled.threshold
    thresholds[np.isnan(thresholds)] = np.inf
    return outcomes.score >= thresholds[outcomes.label]
