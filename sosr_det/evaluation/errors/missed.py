"""Objects that were not found, and the detections that came close to finding them."""

from __future__ import annotations

import numpy as np

from sosr_det.evaluation.errors.outcomes import Outcomes


def found_objects(outcomes: Outcomes, considered: np.ndarray | None = None) -> np.ndarray:
    """Objects that a true positive among the ``considered`` detections (bool [M]; None: all) found; bool [N].

    Detections below a score may be left out of ``considered`` without matching again: a detection never changes what
    becomes of those with higher scores.
    """
    found = outcomes.found_by >= 0
    if considered is not None:
        found[found] = considered[outcomes.found_by[found]]
    return found


def repairing_detection(outcomes: Outcomes, considered: np.ndarray | None = None) -> np.ndarray:
    """For each object that is not found, the error that would have found it.

    That is the classification or localisation error on it with the highest score (the first of equals). An object has
    one at most, as in TIDE's code: what a class error repairs, a localisation error does not repair as well.

    Args:
        outcomes: What became of the detections.
        considered: Detections to look at, bool [M]; all if None. An object found only by others is not found.

    Returns:
        Index of the detection, or -1 (found, difficult, or no such error); int64 [N].
    """
    could = outcomes.is_kind("classification") | outcomes.is_kind("localisation")
    if considered is not None:
        could &= considered
    closed = found_objects(outcomes, considered) | outcomes.difficult
    could[could] = ~closed[outcomes.target[could]]
    rows = np.flatnonzero(could)
    rows = rows[np.argsort(-outcomes.score[rows], kind="stable")]
    objects, first = np.unique(outcomes.target[rows], return_index=True)
    repairs = np.full(len(outcomes.gt_label), -1, np.int64)
    repairs[objects] = rows[first]
    return repairs


def missed_objects(outcomes: Outcomes, considered: np.ndarray | None = None) -> np.ndarray:
    """Objects that count, were not found, and have no :func:`repairing_detection`; bool [N]."""
    found = found_objects(outcomes, considered)
    return ~found & ~outcomes.difficult & (repairing_detection(outcomes, considered) < 0)
