"""Which class a COCO ``category_id`` means. It is never guessed: a list that starts at another number would give every
detection its neighbour's class, and an AP that merely looks bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.text import listed, shown


def labels_by_name(
    category_ids: np.ndarray,
    name_of: Mapping[int, str],
    class_names: Sequence[str],
    place: Callable[[int], str],
) -> np.ndarray:
    """Position in ``class_names`` of each detection's class, by the categories' names; -1 for other classes.

    Args:
        category_ids: int64 [N].
        name_of: Name of each category by its id.
        class_names: The classes.
        place: Where a detection is in its file, for messages.

    Raises:
        DataError: An id without a category, or no category has the name of a class.
    """
    missing = [name for name in class_names if name not in set(name_of.values())]
    if missing:
        raise DataError(
            f"the annotation file has no category for {listed(map(shown, missing))}; its categories are "
            f"{listed(map(shown, name_of.values()), 30)}. Classes are compared by their names as written"
        )
    position = {name: label for label, name in enumerate(class_names)}
    ids, inverse = np.unique(category_ids, return_inverse=True)
    unknown = [int(each) for each in ids if int(each) not in name_of]
    if unknown:
        first = int(np.isin(category_ids, unknown).argmax())
        raise DataError(
            f"{place(first)}: category_id {category_ids[first]} is not in the annotation file; its ids are "
            f"{listed(map(str, sorted(name_of)), 30)}"
        )
    return np.array([position.get(name_of[int(each)], -1) for each in ids], np.int64)[inverse]


def labels_by_number(
    category_ids: np.ndarray,
    class_names: Sequence[str],
    first_category_id: int | None,
    place: Callable[[int], str],
) -> tuple[np.ndarray, int]:
    """Position in ``class_names`` of each detection's class where the ids count the classes in their order.

    Args:
        category_ids: int64 [N].
        class_names: The K classes, in the order that the ids count in.
        first_category_id: Id of the first class, 0 or 1. None: found from the ids, if they tell. With K among them
            and 0 not, they count from 1; with 0 and not K, from 0.
        place: Where a detection is in its file, for messages.

    Returns:
        The labels, int64 [N], and the id of the first class.

    Raises:
        DataError: An id outside of K numbers, or the ids do not tell where they start.
    """
    num_classes = len(class_names)
    present = set(np.unique(category_ids).tolist())
    first = first_category_id
    if first is None and (0 in present) != (num_classes in present):
        first = 0 if 0 in present else 1
    lowest, highest = (first, first + num_classes - 1) if first is not None else (0, num_classes)
    outside = (category_ids < lowest) | (category_ids > highest)
    if outside.any():
        number = int(outside.argmax())
        raise DataError(
            f"{place(number)}: category_id {category_ids[number]} is outside of {lowest}..{highest} "
            f"({num_classes} classes). Give the annotation file (--coco-annotations), or the classes (--classes) in "
            "the order that the ids count in"
        )
    if first is None:
        if not present:
            return category_ids, 1
        which = (
            f"0 and {num_classes} are both among them"
            if 0 in present
            else f"neither 0 nor {num_classes} is among them"
        )
        raise DataError(
            f"{place(0)}: the category ids are {min(present)}..{max(present)} for {num_classes} classes, and {which}: "
            "they do not say whether the first class is 0 or 1. Give --first-category-id 0 or 1, or the annotation "
            "file (--coco-annotations)"
        )
    return category_ids - first, first
