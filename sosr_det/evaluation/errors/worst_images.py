"""The images that went most wrong, and what went wrong in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.evaluation.errors.missed import found_objects, repairing_detection
from sosr_det.evaluation.errors.outcomes import FALSE_POSITIVE_KINDS, TRUE_POSITIVE, Outcomes

# Of either kind, in one image: a detector without scores may have ten thousand in each.
MOST_DESCRIBED = 200


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """One image's confident detections and its objects; indices into :class:`~.outcomes.Outcomes`.

    Attributes:
        image: Index of the image.
        true_positives: Confident detections that found an object, by descending score.
        false_positives: Confident false positives, by descending score.
        ignored: Confident detections of difficult objects.
        missed: Objects that count and that no confident detection found.
        noticed: Those of ``missed`` on which a confident classification or localisation error lies.
        difficult: Difficult objects.
    """

    image: int
    true_positives: tuple[int, ...]
    false_positives: tuple[int, ...]
    ignored: tuple[int, ...]
    missed: tuple[int, ...]
    noticed: tuple[int, ...]
    difficult: tuple[int, ...]

    @property
    def num_errors(self) -> int:
        """What images are ranked by: false positives and objects not found, at the operating point."""
        return len(self.false_positives) + len(self.missed)

    @property
    def num_more(self) -> int:
        """Errors that :func:`describe` leaves out."""
        return sum(max(0, len(each) - MOST_DESCRIBED) for each in (self.false_positives, self.missed))


def worst_images(outcomes: Outcomes, confident: np.ndarray, num_images: int, limit: int) -> list[ImageErrors]:
    """The images with the most errors, worst first; images without an error are left out.

    The number of errors is that of confident false positives plus that of objects that no confident detection found (so
    a loose box counts twice, as it does in precision and recall). Of images with as many errors, the one with fewer
    true positives comes first, then the data set's order decides.

    Args:
        outcomes: What became of every detection.
        confident: Detections to look at, see :func:`~.operating_point.confident_detections`; bool [M].
        num_images: Images in the data set.
        limit: Images to return at most.
    """
    right = confident & (outcomes.outcome == TRUE_POSITIVE)
    wrong = confident & outcomes.is_false_positive
    missed = ~found_objects(outcomes, confident) & ~outcomes.difficult
    errors = _per_image(outcomes.image[wrong], num_images) + _per_image(outcomes.gt_image[missed], num_images)
    ranking = np.lexsort((_per_image(outcomes.image[right], num_images), -errors))
    chosen = ranking[:limit]
    chosen = chosen[errors[chosen] > 0]

    noticed = repairing_detection(outcomes, confident) >= 0
    rows = _rows_by_image(outcomes.image, confident, chosen)
    objects = _rows_by_image(outcomes.gt_image, np.ones(len(outcomes.gt_image), bool), chosen)
    result = []
    for image, of_image, gt in zip(chosen.tolist(), rows, objects, strict=True):
        found = of_image[np.argsort(-outcomes.score[of_image], kind="stable")]
        result.append(
            ImageErrors(
                image=image,
                true_positives=_indices(found[right[found]]),
                false_positives=_indices(found[wrong[found]]),
                ignored=_indices(found[~right[found] & ~wrong[found]]),
                missed=_indices(gt[missed[gt]]),
                noticed=_indices(gt[missed[gt] & noticed[gt]]),
                difficult=_indices(gt[outcomes.difficult[gt]]),
            )
        )
    return result


def describe(outcomes: Outcomes, errors: ImageErrors) -> list[dict]:
    """What went wrong in one image, as plain values: false positives by score, then the objects not found.

    Each has ``kind`` (a false positive's, or ``missed``), ``class``, ``box`` and, for a detection, ``score`` and the
    object that explains it (``object``: its class, box, IoU and whether it is difficult), if any. At most
    ``MOST_DESCRIBED`` of either, the false positives with the highest scores.
    """
    names = outcomes.class_names
    entries = []
    for i in errors.false_positives[:MOST_DESCRIBED]:
        about = int(outcomes.target[i])
        entries.append(
            {
                "kind": FALSE_POSITIVE_KINDS[outcomes.outcome[i]],
                "class": names[outcomes.label[i]],
                "score": float(outcomes.score[i]),
                "box": outcomes.box[i].tolist(),
                "object": None
                if about < 0
                else {
                    "class": names[outcomes.gt_label[about]],
                    "box": outcomes.gt_box[about].tolist(),
                    "iou": float(outcomes.target_iou[i]),
                    "difficult": bool(outcomes.difficult[about]),
                },
            }
        )
    noticed = set(errors.noticed)
    for i in errors.missed[:MOST_DESCRIBED]:
        entries.append(
            {
                "kind": "missed",
                "class": names[outcomes.gt_label[i]],
                "box": outcomes.gt_box[i].tolist(),
                "noticed": i in noticed,
            }
        )
    return entries


def _per_image(images: np.ndarray, num_images: int) -> np.ndarray:
    return np.bincount(images, minlength=num_images)


def _rows_by_image(image: np.ndarray, wanted: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """The wanted rows of each chosen image, ascending; looks at the data once, not once per image."""
    rows = np.flatnonzero(wanted & np.isin(image, chosen))
    return [rows[image[rows] == each] for each in chosen]


def _indices(rows: np.ndarray) -> tuple[int, ...]:
    return tuple(rows.tolist())
