"""MMDetection's records from a table of annotations, with every box checked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sosr_det.data.no_collection import no_collection
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
    table: AnnotationTable, labels: Mapping[str, int], xml_paths: Sequence[str], report: VOCLoadReport
) -> UsableBoxes:
    """Choose and cut the boxes; what is left out or changed is counted in ``report``.

    Args:
        table: Annotations; every image has a size.
        labels: Class name -> label.
        xml_paths: The images' XML files, for the report.
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
                xml_paths[table.image_index[row]],
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


def build_records(
    table: AnnotationTable,
    usable: UsableBoxes,
    images: Sequence[Mapping[str, Any]],
    bbox_min_size: int | None,
    report: VOCLoadReport,
) -> list[dict[str, Any]]:
    """One record per image.

    Args:
        table: Annotations of the images.
        usable: Of these.
        images: ``img_path``, ``img_id`` and ``xml_path`` of each.
        bbox_min_size: Boxes with a side less than this, in pixels, are marked to be ignored; None for none.
        report: Updated.
    """
    boxes, rows = usable.boxes, usable.rows
    difficult = table.difficult[rows]
    small = np.zeros(len(rows), bool)
    if bbox_min_size is not None:
        small = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) < bbox_min_size
    report.num_boxes += len(rows)
    report.num_difficult += int(difficult.sum())
    report.num_truncated += int(table.truncated[rows].sum())
    report.num_ignored_small += int((small & ~difficult).sum())
    counts = np.bincount(usable.labels, minlength=len(report.boxes_per_class)).tolist()
    for name, count in zip(report.boxes_per_class, counts, strict=True):
        report.boxes_per_class[name] += count

    bounds = image_bounds(table, rows)
    with no_collection():
        instances = [
            {"ignore_flag": ignored, "bbox": box, "bbox_label": label}
            for ignored, box, label in zip(
                (difficult | small).astype(np.int64).tolist(),
                (boxes - 1).tolist(),
                usable.labels.tolist(),
                strict=True,
            )
        ]
        return [
            {
                "img_path": image["img_path"],
                "img_id": image["img_id"],
                "xml_path": image["xml_path"],
                "height": height,
                "width": width,
                "instances": instances[start:stop],
            }
            for image, (width, height), start, stop in zip(
                images, table.sizes.tolist(), bounds[:-1], bounds[1:], strict=True
            )
        ]


def image_bounds(table: AnnotationTable, rows: np.ndarray) -> list[int]:
    """Where each image's part of ``rows`` (sorted rows of the table) begins, and the end of the last; N + 1 numbers."""
    return np.searchsorted(rows, table.offsets).tolist()
