"""What became of every detection and every object: the six kinds of error of TIDE.

A detection that VOC's rules (:mod:`sosr_det.evaluation.voc_ap`) call a true positive or ignored is no error. Every
false positive is of exactly one kind, the first that applies; IoU is the highest with any object meant, in its image:

1. ``localisation``: IoU with an object of its own class from ``background_iou`` to ``foreground_iou``.
2. ``classification``: IoU with an object of another class above ``foreground_iou``.
3. ``duplicate``: IoU with an object of its own class above ``foreground_iou``; another detection has found that.
4. ``background``: IoU with every object at most ``background_iou``.
5. ``both``: what is left: IoU with an object of another class in between, too far off and wrongly named.

An object that no detection found is ``missed``, unless a localisation or classification error lies on it, which means
that it was noticed. Difficult objects are never missed. They do explain errors: a loose box around a difficult object
is a localisation error, not background.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, section 2.2, and its
code, whose order of the checks this is (https://github.com/dbolya/tide, ``quantify.py``). Three things differ. TIDE
matches as COCO does, to the best object that is still free; here VOC's rule holds, the best object, free or not. Its
code accepts a class error at an IoU of exactly the threshold; here every match must exceed it. And it counts ignored
detections as errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.matching import best_ground_truth, match_detections

FALSE_POSITIVE_KINDS = ("classification", "localisation", "both", "duplicate", "background")
KINDS = (*FALSE_POSITIVE_KINDS, "missed")  # in the order in which TIDE's tables have them
# Values of Outcomes.outcome; a false positive's is its place in FALSE_POSITIVE_KINDS.
TRUE_POSITIVE = 100
IGNORED = 101
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(len(FALSE_POSITIVE_KINDS))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """All detections [M] and objects [N], class by class in the order of ``class_names``, each class as given.

    Attributes:
        class_names: The classes; labels count in this order.
        label: Class of each detection; int64 [M].
        image: Its image; int64 [M].
        box: Its box; float64 [M, 4].
        score: Its score; float64 [M].
        outcome: ``TRUE_POSITIVE``, ``IGNORED``, or the place in ``FALSE_POSITIVE_KINDS``; int64 [M].
        target: The object that the outcome is about (the one found, overlapped or mistaken); -1 where there is none,
            that is for ``background``; int64 [M].
        target_iou: IoU with it, 0 to 1; 0 where there is none; float64 [M].
        gt_label: Class of each object; int64 [N].
        gt_image: Its image; int64 [N].
        gt_box: Its box; float64 [N, 4].
        difficult: Whether it does not count; bool [N].
        found_by: The true positive that found it, or -1; int64 [N].
    """

    class_names: tuple[str, ...]
    label: np.ndarray
    image: np.ndarray
    box: np.ndarray
    score: np.ndarray
    outcome: np.ndarray
    target: np.ndarray
    target_iou: np.ndarray
    gt_label: np.ndarray
    gt_image: np.ndarray
    gt_box: np.ndarray
    difficult: np.ndarray
    found_by: np.ndarray

    def is_kind(self, kind: str) -> np.ndarray:
        """Which detections are errors of one of ``FALSE_POSITIVE_KINDS``; bool [M]."""
        return self.outcome == FALSE_POSITIVE_KINDS.index(kind)

    @property
    def is_false_positive(self) -> np.ndarray:
        return self.outcome < len(FALSE_POSITIVE_KINDS)

    @property
    def num_ground_truth(self) -> np.ndarray:
        """Objects to be found, difficult ones left out, of each class; int64 [classes]."""
        return np.bincount(self.gt_label[~self.difficult], minlength=len(self.class_names))


def explain_detections(
    data: EvaluationSet, *, foreground_iou: float = 0.5, background_iou: float = 0.1
) -> Outcomes:
    """Name what became of every detection.

    Args:
        data: Ground truth and detections, taken as checked (as :func:`~sosr_det.evaluation.voc_ap.evaluate_voc` does).
        foreground_iou: IoU that a match must exceed.
        background_iou: IoU up to which a box has nothing to do with an object; 0 <= background < foreground < 1.

    Raises:
        ValueError: thresholds in another order, or NaN.
    """
    if not 0 <= background_iou < foreground_iou < 1:
        raise ValueError(
            "expected 0 <= background_iou < foreground_iou < 1, "
            f"got background_iou={background_iou!r}, foreground_iou={foreground_iou!r}"
        )
    names = data.class_names
    found = [data.detections[name] for name in names]
    truth = [data.ground_truth[name] for name in names]
    gt_label = np.repeat(np.arange(len(names)), [len(each) for each in truth])
    gt_image = _joined([each.image_index for each in truth], np.int64)
    gt_box = _joined([each.boxes for each in truth], np.float64, (4,))
    difficult = _joined([each.difficult for each in truth], bool)
    # One sort by image for all classes; what is left when a class is taken out is still sorted.
    by_image = np.argsort(gt_image, kind="stable")

    num_detections = sum(map(len, found))
    outcome = np.empty(num_detections, np.int64)
    target = np.full(num_detections, -1, np.int64)
    target_iou = np.zeros(num_detections)
    found_by = np.full(len(gt_label), -1, np.int64)
    start = first_object = 0
    for label, (detections, objects) in enumerate(zip(found, truth, strict=True)):
        own = slice(start, start + len(detections))
        kind, about, iou = outcome[own], target[own], target_iou[own]  # views of the arrays of all classes
        matches = match_detections(objects, detections, foreground_iou)
        order = matches.order
        iou[order] = matches.best_iou
        about[order] = np.where(matches.best < 0, -1, matches.best + first_object)
        kind[order] = np.where(matches.best_iou > foreground_iou, _DUPLICATE, _LOCALISATION)
        kind[order[matches.true_positive]] = TRUE_POSITIVE
        kind[order[matches.ignored]] = IGNORED
        hits = np.flatnonzero(kind == TRUE_POSITIVE)
        found_by[about[hits]] = start + hits

        # A near miss of its own class is a localisation error, whatever else it overlaps; the others may be more.
        far = (iou < background_iou) | (iou == 0)
        rows = np.flatnonzero((kind == _DUPLICATE) | ((kind == _LOCALISATION) & far))
        others = by_image[gt_label[by_image] != label]
        other_iou, other = best_ground_truth(
            detections.image_index[rows], detections.boxes[rows], gt_image[others], gt_box[others]
        )
        mistaken = other_iou > foreground_iou
        unexplained = ~mistaken & (kind[rows] != _DUPLICATE)
        kind[rows[unexplained]] = np.where(other_iou[unexplained] > background_iou, _BOTH, _BACKGROUND)
        kind[rows[mistaken]] = _CLASSIFICATION
        on_other = mistaken | (unexplained & (other_iou > background_iou))
        about[rows[on_other]], iou[rows[on_other]] = others[other[on_other]], other_iou[on_other]
        about[kind == _BACKGROUND], iou[kind == _BACKGROUND] = -1, 0.0
        start += len(detections)
        first_object += len(objects)

    return Outcomes(
        class_names=tuple(names),
        label=np.repeat(np.arange(len(names)), [len(each) for each in found]),
        image=_joined([each.image_index for each in found], np.int64),
        box=_joined([each.boxes for each in found], np.float64, (4,)),
        score=_joined([each.scores for each in found], np.float64),
        outcome=outcome,
        target=target,
        target_iou=target_iou,
        gt_label=gt_label,
        gt_image=gt_image,
        gt_box=gt_box,
        difficult=difficult,
        found_by=found_by,
    )


def _joined(parts: list[np.ndarray], dtype: type, shape: tuple[int, ...] = ()) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *(np.asarray(part, dtype) for part in parts)])
