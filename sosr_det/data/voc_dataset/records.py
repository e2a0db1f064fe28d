"""MMDetection's records, made from arrays when they are asked for; every box is checked at once."""

from __future__ import annotations

import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sosr_det.data.voc_annotations import AnnotationTable
from sosr_det.data.voc_dataset.report import VOCLoadReport


@dataclass(frozen=True, eq=False)
class UsableBoxes:
    """The K boxes of configured classes with something left of them inside their image, in the table's order.

    Attributes:
        rows: Where they are in the table; int64 [K].
        boxes: 1-based and inclusive, cut off at the image's border; int64 [K, 4], 1 to the image's side.
        labels: 0 to the number of classes - 1; int64 [K].
    """

    rows: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def usable_boxes(
    table: AnnotationTable, labels: Mapping[str, int], xml_path: Callable[[int], str], report: VOCLoadReport
) -> UsableBoxes:
    """Choose and cut the boxes; what is left out or changed is counted in ``report``.

    Args:
        table: Annotations; every image has a size.
        labels: Class name -> label.
        xml_path: Position of an image -> its XML file, for the report.
        report: Updated.
    """
    label_of = np.array([labels.get(name, -1) for name in table.class_names], np.int64)
    all_labels = label_of[table.class_index] if len(label_of) else table.class_index
    for name, count in table.class_counts.items():
        if name not in labels:
            report.unknown_classes[name] = count
    # As MMDetection: fractions are cut off before anything else. As float64, which is exact for pixels.
    written = np.trunc(table.boxes)
    limits = table.sizes[table.image_index].astype(np.float64)
    inside = np.concatenate([np.maximum(written[:, :2], 1), np.minimum(written[:, 2:], limits)], axis=1)
    known = all_labels >= 0
    degenerate = known & (written[:, 2:] <= written[:, :2]).any(axis=1)
    outside = known & ~degenerate & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    kept = known & ~degenerate & ~outside

    def places(chosen: np.ndarray) -> list[tuple[str, str, list[int]]]:
        return [
            (
                xml_path(int(table.image_index[row])),
                table.class_names[table.class_index[row]],
                [int(value) for value in table.boxes[row].tolist()],
            )
            for row in np.flatnonzero(chosen).tolist()
        ]

    report.degenerate += places(degenerate)
    report.outside += places(outside)
    report.num_degenerate += int(degenerate.sum())
    report.num_outside += int(outside.sum())
    report.num_clipped += int((kept & (inside != written).any(axis=1)).sum())
    rows = np.flatnonzero(kept)
    return UsableBoxes(rows, inside[rows].astype(np.int64), all_labels[rows])


@dataclass(frozen=True, eq=False)
class VOCRecords:
    """Records of N images with K boxes, as arrays.

    Making 16,551 records and pickling them, as MMEngine's data sets do on loading, takes longer than all of reading the
    annotations from the cache; so each is made when it is asked for, in less time than unpickling it takes. As
    the pickles would be, the arrays are shared by the processes that load batches.

    Attributes:
        image_folder, xml_folder: Where the files are.
        image_ids, image_names: Ids, and file names relative to the folder; str [N].
        sizes: ``width, height``; int64 [N, 2].
        bounds: Image ``i`` has the boxes ``bounds[i]`` to ``bounds[i + 1] - 1``; int64 [N + 1].
        boxes: 0-based, inclusive; int32 [K, 4].
        labels, ignored, truncated: Of each box; int64, int8 and bool [K].
    """

    image_folder: str
    xml_folder: str
    image_ids: np.ndarray
    image_names: np.ndarray
    sizes: np.ndarray
    bounds: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def __deepcopy__(self, memo: object) -> VOCRecords:
        return self  # nothing here ever changes

    def record(self, row: int) -> dict[str, Any]:
        """A new record of image ``row``, 0 to N - 1."""
        start, stop = self.bounds[row], self.bounds[row + 1]
        width, height = self.sizes[row].tolist()
        image_id = str(self.image_ids[row])
        return {
            "img_path": osp.join(self.image_folder, str(self.image_names[row])),
            "img_id": image_id,
            "xml_path": osp.join(self.xml_folder, f"{image_id}.xml"),
            "height": height,
            "width": width,
            "instances": [
                {"ignore_flag": ignored, "bbox": box, "bbox_label": label}
                for ignored, box, label in zip(
                    self.ignored[start:stop].tolist(),
                    self.boxes[start:stop].tolist(),
                    self.labels[start:stop].tolist(),
                    strict=True,
                )
            ],
        }

    def truncated_flags(self, row: int) -> list[bool]:
        """Of each instance of image ``row``."""
        return self.truncated[self.bounds[row] : self.bounds[row + 1]].tolist()

    def unfiltered(self, filter_empty: bool, min_size: int) -> np.ndarray:
        """Rows of images with boxes (if ``filter_empty``), and no side less than ``min_size`` pixels."""
        kept = self.sizes.min(axis=1) >= min_size
        if filter_empty:
            kept &= np.diff(self.bounds) > 0
        return np.flatnonzero(kept)


def build_records(
    table: AnnotationTable,
    usable: UsableBoxes,
    folders: tuple[str, str],
    image_ids: Sequence[str],
    image_names: Sequence[str],
    bbox_min_size: int | None,
    report: VOCLoadReport,
) -> VOCRecords:
    """The records of the images.

    Args:
        table: Annotations of the images.
        usable: Of these.
        folders: Of the images, and of the XML files.
        image_ids: As in the list.
        image_names: Relative to their folder.
        bbox_min_size: Boxes with a side less than this, in pixels, are marked to be ignored; None for none.
        report: Updated.
    """
    boxes, rows = usable.boxes, usable.rows
    difficult, truncated = table.difficult[rows], table.truncated[rows]
    small = np.zeros(len(rows), bool)
    if bbox_min_size is not None:
        small = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) < bbox_min_size
    report.num_boxes += len(rows)
    report.num_difficult += int(difficult.sum())
    report.num_truncated += int(truncated.sum())
    report.num_ignored_small += int((small & ~difficult).sum())
    counts = np.bincount(usable.labels, minlength=len(report.boxes_per_class)).tolist()
    for name, count in zip(report.boxes_per_class, counts, strict=True):
        report.boxes_per_class[name] += count
    return VOCRecords(
        *folders,
        np.array(image_ids, str),
        np.array(image_names, str),
        table.sizes,
        np.searchsorted(rows, table.offsets),
        (boxes - 1).astype(np.int32),
        usable.labels,
        (difficult | small).astype(np.int8),
        truncated,
    )
