"""Ground truth and detections of a data set: the one input of every detection metric here.

Boxes are ``x1, y1, x2, y2`` in pixels and pixel-inclusive: they cover ``x2 - x1 + 1`` by ``y2 - y1 + 1`` pixels. Only
differences count, so 0-based and 1-based boxes are equally good, as long as detections and ground truth agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """All ground-truth boxes of one class, over all images.

    Anything that numpy can convert is accepted and stored as an array. The values are checked by
    :func:`evaluate_class`, which can name the class.

    Attributes:
        image_index: Which image each box lies in; integers [N], >= 0, in any order.
        boxes: ``x1, y1, x2, y2`` in pixels, pixel-inclusive; float64 [N, 4].
        difficult: True for boxes that count neither as found nor as missed; bool [N].
        truncated: True for objects that reach beyond what their box shows (the annotations' ``<truncated>``); bool
            [N], or None where it is not known. No average precision depends on it.
    """

    image_index: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray | None = None

    def __post_init__(self) -> None:
        _set_arrays(self, image_index=self.image_index, boxes=self.boxes)
        object.__setattr__(self, "difficult", _as_bool(self.difficult, "difficult"))
        if self.truncated is not None:
            object.__setattr__(self, "truncated", _as_bool(self.truncated, "truncated"))

    @classmethod
    def empty(cls) -> GroundTruth:
        """A class without any ground truth."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class Detections:
    """All detections of one class, over all images.

    Attributes:
        image_index: Which image each box lies in; integers [M], >= 0, in any order.
        boxes: ``x1, y1, x2, y2`` in pixels, pixel-inclusive; float64 [M, 4]. A box with ``x2 < x1 - 1`` or
            ``y2 < y1 - 1`` covers nothing and is a false positive.
        scores: Confidence, higher is surer, any finite scale; float64 [M].
    """

    image_index: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        _set_arrays(self, image_index=self.image_index, boxes=self.boxes)
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float64))

    @classmethod
    def empty(cls) -> Detections:
        """A class of which nothing was detected."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Everything that detection metrics need to know of one data set and one detector.

    Attributes:
        class_names: The classes, without duplicates, in the data set's order.
        image_ids: One unique name per image; ``image_index`` of ground truth and detections counts in this order.
        ground_truth: One entry per class.
        detections: One entry per class.
        image_sizes: Width and height of each image in pixels; int64 [num_images, 2], or None where not known.
        image_paths: One file per image, or None where not known.

    Raises:
        ValueError: repeated or missing class names or image ids, or a length that does not fit.
    """

    class_names: Sequence[str]
    image_ids: Sequence[str]
    ground_truth: Mapping[str, GroundTruth]
    detections: Mapping[str, Detections]
    image_sizes: np.ndarray | None = None
    image_paths: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for what in ("class_names", "image_ids", "image_paths"):
            value = getattr(self, what)
            if value is not None:
                object.__setattr__(self, what, tuple(value))
        for what in ("class_names", "image_ids"):
            names = getattr(self, what)
            if len(set(names)) != len(names):
                repeated = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} holds {repeated!r} more than once")
        for what in ("ground_truth", "detections"):
            if set(getattr(self, what)) != set(self.class_names):
                odd = sorted(set(getattr(self, what)) ^ set(self.class_names))
                raise ValueError(f"{what} must have one entry per class; missing or unknown: {odd}")
        if self.image_sizes is not None:
            sizes = np.asarray(self.image_sizes, np.int64)
            if sizes.shape != (self.num_images, 2):
                raise ValueError(
                    f"image_sizes must have shape [{self.num_images}, 2], got {list(sizes.shape)}"
                )
            object.__setattr__(self, "image_sizes", sizes)
        if self.image_paths is not None and len(self.image_paths) != self.num_images:
            raise ValueError(f"image_paths holds {len(self.image_paths)} files for {self.num_images} images")

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_detections(self) -> int:
        return sum(map(len, self.detections.values()))


def _set_arrays(instance: GroundTruth | Detections, image_index: ArrayLike, boxes: ArrayLike) -> None:
    index = np.asarray(image_index)
    if index.size == 0:
        index = index.astype(np.int64)  # np.asarray([]) is float64
    object.__setattr__(instance, "image_index", index)
    array = np.asarray(boxes, np.float64)
    object.__setattr__(instance, "boxes", array.reshape(0, 4) if array.size == 0 else array)


def _as_bool(values: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"{what} must hold booleans (or 0 and 1), got {np.setdiff1d(array, (0, 1))[:5].tolist()}"
        )
    return array.astype(bool)
