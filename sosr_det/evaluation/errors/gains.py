"""How much average precision each kind of error costs: AP after fixing that kind alone, minus AP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.errors.missed import missed_objects, repairing_detection
from sosr_det.evaluation.errors.outcomes import KINDS, TRUE_POSITIVE, Outcomes

# Fixed by what they do to the curve rather than by their cause: all false positives, all objects not found.
CURVE_KINDS = ("false_positive", "false_negative")
AveragePrecision = Callable[[np.ndarray, int], float]


@dataclass(frozen=True, eq=False)
class Gains:
    """AP and what fixing adds to it; fractions, [classes], NaN for a class without objects that count.

    Attributes:
        ap: AP as it is, 0 to 1.
        gain: For each of ``KINDS`` and ``CURVE_KINDS``, AP after the fix minus ``ap``, 0 (no such error, or it costs
            nothing) to 1 - ``ap``. They do not add up to 1 - ``ap``: fixing two kinds together gains more or less than
            one after the other.
    """

    ap: np.ndarray
    gain: dict[str, np.ndarray]


def ap_gains(outcomes: Outcomes, average_precision: AveragePrecision) -> Gains:
    """Fix each kind of error alone, as TIDE does, and compute AP again.

    - ``classification``: the detection gets the class of the object that it lies on. Of the errors on one object, the
      one with the highest score finds it (:func:`~.missed.repairing_detection`) and the others are removed, as are
      those on objects that are found already or difficult. So the gain shows in both classes: one loses a false
      positive, the other may gain a true one.
    - ``localisation``: the same with the box moved onto the object.
    - ``both``, ``duplicate``, ``background``: the detection is removed.
    - ``missed``: the object is not asked for. Recall grows as if the missed were found as precisely as the others are;
      where nothing at all was found, there is no precision to go by, and AP stays 0.
    - ``false_positive``: all false positives are removed. ``false_negative``: no unfound object is asked for.

    Args:
        outcomes: What became of every detection.
        average_precision: Called with flags (True for a true positive, False for a false one, by descending score) and
            the number of objects, at least 1.

    Source: Bolya et al., ECCV 2020, section 2.3 and supplementary material.
    """
    positive = outcomes.outcome == TRUE_POSITIVE
    false = outcomes.is_false_positive
    num_objects = outcomes.num_ground_truth

    def ap_of(keep: np.ndarray, label=outcomes.label, positive=positive, num=num_objects) -> np.ndarray:
        rows = np.flatnonzero(keep)
        # By class, then by descending score; equal scores as given.
        rows = rows[np.lexsort((-outcomes.score[rows], label[rows]))]
        ends = np.searchsorted(label[rows], np.arange(len(num)), side="right")
        parts = np.split(positive[rows], ends)
        ap = np.full(len(num), np.nan)
        for i in np.flatnonzero(num_objects):
            ap[i] = average_precision(parts[i], int(num[i])) if num[i] else 0.0
        return ap

    def not_asked_for(objects: np.ndarray) -> np.ndarray:
        return num_objects - np.bincount(outcomes.gt_label[objects], minlength=len(num_objects))

    repairs = repairing_detection(outcomes)
    repairs = repairs[repairs >= 0]
    fixed = {}
    for kind in KINDS[:-1]:
        of_kind = outcomes.is_kind(kind)
        winners = repairs[of_kind[repairs]]
        label, right = outcomes.label.copy(), positive.copy()
        label[winners] = outcomes.gt_label[outcomes.target[winners]]
        right[winners] = True
        fixed[kind] = ap_of(right | (false & ~of_kind), label, right)
    everything = positive | false
    unfound = ~outcomes.difficult & (outcomes.found_by < 0)
    fixed["missed"] = ap_of(everything, num=not_asked_for(missed_objects(outcomes)))
    fixed["false_positive"] = ap_of(positive)
    fixed["false_negative"] = ap_of(everything, num=not_asked_for(unfound))
    ap = ap_of(everything)
    return Gains(ap, {kind: fixed[kind] - ap for kind in (*KINDS, *CURVE_KINDS)})
