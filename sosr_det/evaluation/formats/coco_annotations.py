"""A COCO annotation file beside results: it says which image, class and kind of box their numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.box_formats import BOX_FORMATS, BoxFormat, corners_of, to_voc
from sosr_det.evaluation.formats.ground_truth import Annotations
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.text import shown
from sosr_det.evaluation.input_checks import BEYOND, within_bounds
from sosr_det.plain_json import parse_json

_ENOUGH = 0.95  # of the annotations must be boxes of the XML files; a few may be corrected, cut or rounded


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """What is needed of the file.

    Attributes:
        path: The file.
        file_names: File name of each image by its id.
        names: Name of each category by its id.
        annotations: ``(image id, category id, [x, y, w, h])`` of each object; may be empty.
    """

    path: Path
    file_names: dict[Any, str]
    names: dict[int, str]
    annotations: list[tuple[Any, int, list[float]]]


def read_coco_annotations(path: str | Path) -> CocoAnnotations:
    """Read ``images`` (optional), ``categories`` and ``annotations`` (optional) of a COCO annotation file.

    Raises:
        DataError: not such a file.
    """
    path = Path(path)
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    try:
        file_names = {_id(each["id"]): _text(each["file_name"]) for each in document.get("images", [])}
        names = {_whole(each["id"]): _text(each["name"]) for each in document["categories"]}
        annotations = [
            (_id(each["image_id"]), _whole(each["category_id"]), [float(v) for v in each["bbox"]])
            for each in document.get("annotations", [])
        ]
        if len(set(names.values())) < len(document["categories"]):
            raise ValueError("two categories have the same id or name")
        if any(len(box) != 4 for _, _, box in annotations):
            raise ValueError("a bbox does not have four numbers")
        if annotations and not within_bounds(np.array([box for _, _, box in annotations])).all():
            raise ValueError(f"a bbox has {BEYOND}")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path}: not a COCO annotation file: {shown(what, 200)}; expected an object with 'images' (id, "
            "file_name), 'categories' (id, name) and 'annotations' (image_id, category_id, bbox)"
        ) from error
    return CocoAnnotations(path, file_names, names, annotations)


def box_format_of(
    coco: CocoAnnotations, image_names: ImageNames, xml: Annotations, class_names: Sequence[str]
) -> BoxFormat | None:
    """Which way of writing boxes makes the file's annotations those of VOC's XML files; None if it has none of the set.

    Raises:
        DataError: none of them does.
    """
    position = {name: label for label, name in enumerate(class_names)}
    keys, boxes = [], []
    for image_id, category_id, box in coco.annotations:
        name = image_id if not coco.file_names else coco.file_names.get(image_id)
        index = None if name is None else image_names.index(name)
        label = position.get(coco.names.get(category_id, ""))
        if index is not None and label is not None:
            keys.append((index, label))
            boxes.append(box)
    if not boxes:
        return None
    table = xml.table
    labels = [position.get(name) for name in table.class_names]
    rows = zip(table.image_index.tolist(), table.class_index.tolist(), table.boxes.tolist(), strict=True)
    known = {(index, labels[number], *box) for index, number, box in rows}
    agreeing = {}
    for box_format in BOX_FORMATS:
        candidates = to_voc(corners_of(np.array(boxes, np.float64)), box_format).tolist()
        pairs = zip(keys, candidates, strict=True)
        agreeing[box_format] = sum((*key, *box) in known for key, box in pairs) / len(boxes)
    best = max(agreeing, key=agreeing.__getitem__)
    if agreeing[best] < _ENOUGH:
        shares = ", ".join(f"{name} {100 * share:.0f}%" for name, share in agreeing.items())
        raise DataError(
            f"{coco.path}: its boxes are not those of the XML files in any way of writing them ({shares} agree). "
            "Check that it is the file of this data set; or give the categories alone, without 'annotations', and "
            "--box-format"
        )
    return best


def _id(value: Any) -> int | str:
    if type(value) not in (int, str):
        raise TypeError(f"{shown(value)} is not an image's id")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{shown(value)} is not a text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{shown(value)} is not a whole number")
    return value
