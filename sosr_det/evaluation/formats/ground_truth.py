"""Ground truth from PASCAL VOC annotations, as it is written: 1-based, inclusive, nothing repaired.

A box that covers a single pixel or reaches beyond its image counts, as in the development kit. (Training and
validation through ``CheckedVOCDataset`` leave such boxes out.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import GroundTruth
from sosr_det.evaluation.formats.text import shown


@dataclass(frozen=True, eq=False)
class Annotations:
    """Every object of a list of images, image by image.

    Attributes:
        folder: Where the XML files are.
        image_ids: The images, in the order that ``image_index`` counts in.
        image_sizes: Width and height in pixels; int64 [num_images, 2], or None if an annotation does not say.
        names: Class name of each object; N of them.
        image_index: Image of each object; int64 [N].
        boxes: ``xmin, ymin, xmax, ymax``; float64 [N, 4].
        difficult: bool [N].
        truncated: bool [N], or None where it was not read.
    """

    folder: Path
    image_ids: Sequence[str]
    image_sizes: np.ndarray | None
    names: np.ndarray
    image_index: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray | None

    def counts(self) -> dict[str, int]:
        """Objects, difficult ones too, of each class that occurs; sorted by name."""
        names, counts = np.unique(self.names, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def ground_truth(
        self, class_names: Sequence[str], unknown_classes: Literal["error", "ignore"] = "error"
    ) -> dict[str, GroundTruth]:
        """One entry per class name; see :func:`read_ground_truth`."""
        if unknown_classes not in ("error", "ignore"):
            raise ValueError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
        unknown = {name: count for name, count in self.counts().items() if name not in set(class_names)}
        if unknown and unknown_classes == "error":
            raise DataError(
                f"{self.folder}: objects of unknown classes: {unknown}; expected only "
                f"{list(class_names)}. Correct the class names, or ignore the others with unknown_classes='ignore'"
            )
        self._check(np.isin(self.names, list(class_names)))
        table = {}
        for name in class_names:
            of_class = self.names == name
            table[name] = GroundTruth(
                self.image_index[of_class],
                self.boxes[of_class],
                self.difficult[of_class],
                None if self.truncated is None else self.truncated[of_class],
            )
        return table

    def _check(self, counted: np.ndarray) -> None:
        """Refuse boxes that nothing could match."""
        boxes = self.boxes
        bad = counted & ((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
        if bad.any():
            i = int(bad.argmax())
            path = self.folder / f"{self.image_ids[self.image_index[i]]}.xml"
            raise DataError(
                f"{path}: {shown(str(self.names[i]))} has the box {boxes[i].tolist()}: xmax < xmin or ymax < ymin"
            )


def read_annotations(annotations_dir: str | Path, image_ids: Sequence[str]) -> Annotations:
    """Read ``<annotations_dir>/<image id>.xml`` of every image.

    Raises:
        DataError: If a file is missing or malformed.
    """
    folder = Path(annotations_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected VOC annotations (one XML file per image)")
    names, index, boxes, difficult, sizes = [], [], [], [], []
    for number, image_id in enumerate(image_ids):
        path = folder / f"{image_id}.xml"
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; the image set lists image {image_id!r}") from error
        annotation = parse_voc_xml(content, str(path))
        sizes.append(annotation.size)
        for each in annotation.objects:
            names.append(each.name)
            index.append(number)
            boxes.append(each.box)
            difficult.append(each.difficult)
    return Annotations(
        folder,
        image_ids,
        None if None in sizes else np.array(sizes, np.int64).reshape(-1, 2),
        np.array(names, dtype=object),
        np.array(index, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(difficult, bool),
        None,
    )


def read_ground_truth(
    annotations_dir: str | Path,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    *,
    unknown_classes: Literal["error", "ignore"] = "error",
) -> dict[str, GroundTruth]:
    """Ground truth from ``<annotations_dir>/<image id>.xml``.

    Args:
        annotations_dir: The ``Annotations`` folder.
        image_ids: The images, as of :func:`sosr_det.evaluation.formats.voc_folder.read_image_set`;
            ``image_index`` counts in this order.
        class_names: Classes to evaluate.
        unknown_classes: What to do with objects of other classes: ``'error'``, or ``'ignore'`` them.

    Returns:
        One entry per class name; 1-based boxes.

    Raises:
        DataError: If a file is missing or malformed, a box has ``xmax < xmin`` or ``ymax < ymin``, or (unless
            ignored) there are other classes; the message then lists them with their number of objects.
    """
    if unknown_classes not in ("error", "ignore"):
        raise ValueError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
    return read_annotations(annotations_dir, image_ids).ground_truth(class_names, unknown_classes)
