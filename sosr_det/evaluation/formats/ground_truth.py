"""Ground truth from PASCAL VOC annotations, as it is written: 1-based, inclusive, nothing repaired.

A box that covers a single pixel or reaches beyond its image counts, as in the development kit. (Training and
validation through ``CheckedVOCDataset`` leave such boxes out.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sosr_det.data.voc_annotations import AnnotationTable
from sosr_det.data.voc_annotations import read_annotations as read_files
from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import GroundTruth
from sosr_det.evaluation.formats.text import shown
from sosr_det.evaluation.input_checks import BEYOND, within_bounds


@dataclass(frozen=True, eq=False)
class Annotations:
    """Every object of an image set.

    Attributes:
        folder: Where the XML files are.
        image_ids: The images, in the order that ``image_index`` counts in.
        table: Their annotations.
    """

    folder: Path
    image_ids: Sequence[str]
    table: AnnotationTable

    @property
    def image_sizes(self) -> np.ndarray | None:
        """Width and height in pixels; int64 [num_images, 2], or None if an annotation does not say."""
        return self.table.sizes if self.table.sizes.all() else None

    def ground_truth(
        self, class_names: Sequence[str], unknown_classes: Literal["error", "ignore"] = "error"
    ) -> dict[str, GroundTruth]:
        """One entry per class name; see :func:`read_ground_truth`."""
        if unknown_classes not in ("error", "ignore"):
            raise ValueError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
        table = self.table
        unknown = {n: count for n, count in table.class_counts.items() if n not in class_names}
        if unknown and unknown_classes == "error":
            raise DataError(
                f"{self.folder}: objects of unknown classes: {unknown}; expected only "
                f"{list(class_names)}. Correct the class names, or ignore the others with unknown_classes='ignore'"
            )
        self._check_boxes(class_names)
        position = {name: index for index, name in enumerate(table.class_names)}
        return {
            name: self._of_class(position[name]) if name in position else GroundTruth.empty()
            for name in class_names
        }

    def _of_class(self, index: int) -> GroundTruth:
        rows = np.flatnonzero(self.table.class_index == index)
        known = self.table.truncated_known[rows].all()
        return GroundTruth(
            self.table.image_index[rows],
            self.table.boxes[rows],
            self.table.difficult[rows],
            self.table.truncated[rows] if known else None,
        )

    def _check_boxes(self, class_names: Sequence[str]) -> None:
        """Refuse boxes of these classes that nothing could match."""
        table = self.table
        beyond = ~within_bounds(table.boxes)
        inverted = (table.boxes[:, 2] < table.boxes[:, 0]) | (table.boxes[:, 3] < table.boxes[:, 1])
        for row in np.flatnonzero(inverted | beyond).tolist():
            name = table.class_names[table.class_index[row]]
            if name in class_names:
                path = self.folder / f"{self.image_ids[table.image_index[row]]}.xml"
                box = table.boxes[row].tolist()
                what = BEYOND if beyond[row] else "xmax < xmin or ymax < ymin"
                raise DataError(f"{path}: {shown(name)} has the box {box}: {what}")


def read_annotations(
    annotations_dir: str | Path, image_ids: Sequence[str], *, cache: bool = True
) -> Annotations:
    """Read ``<annotations_dir>/<image id>.xml`` of every image.

    Args:
        annotations_dir: The ``Annotations`` folder.
        image_ids: The images.
        cache: Take unchanged files from this user's cache, see :mod:`sosr_det.data.voc_annotations`.

    Raises:
        DataError: If a file is missing or malformed.
    """
    folder = Path(annotations_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected VOC annotations (one XML file per image)")
    prefix = os.path.join(folder, "")
    read = read_files([f"{prefix}{image_id}.xml" for image_id in image_ids], cache=cache)
    return Annotations(folder, image_ids, read.table)


def read_ground_truth(
    annotations_dir: str | Path,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    *,
    unknown_classes: Literal["error", "ignore"] = "error",
    cache: bool = True,
) -> dict[str, GroundTruth]:
    """Ground truth from ``<annotations_dir>/<image id>.xml``.

    Args:
        annotations_dir: The ``Annotations`` folder.
        image_ids: The images, as of :func:`sosr_det.evaluation.formats.voc_folder.read_image_set`;
            ``image_index`` counts in this order.
        class_names: Classes to evaluate.
        unknown_classes: What to do with objects of other classes: ``'error'``, or ``'ignore'`` them.
        cache: Take unchanged files from this user's cache.

    Returns:
        One entry per class name; 1-based boxes; ``truncated`` is None for a class where a file does not say.

    Raises:
        DataError: If a file is missing or malformed, a box has ``xmax < xmin``, ``ymax < ymin`` or a coordinate beyond
            all bounds, or (unless ignored) there are other classes; the message then lists them with their number of
            objects.
    """
    if unknown_classes not in ("error", "ignore"):
        raise ValueError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
    return read_annotations(annotations_dir, image_ids, cache=cache).ground_truth(
        class_names, unknown_classes
    )
