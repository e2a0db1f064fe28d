"""Pickled results of MMDetection, read without unpickling anything but data.

- MMDetection 3: ``tools/test.py --out results.pkl`` (``DumpDetResults``), a list with a dict per image: ``img_id``,
  ``img_path``, and ``pred_instances`` with the tensors ``bboxes`` [N, 4], ``labels`` [N] and ``scores`` [N].
- MMDetection 2 and before: a list, image by image in the data set's order, of lists, class by class, of arrays [N, 5]
  ``x1, y1, x2, y2, score``; with masks, of pairs of such a list and the masks, which are not read.

Boxes are given as they are in the file, ``x1, y1, x2, y2``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.text import listed, shown
from sosr_det.evaluation.input_checks import BEYOND, within_bounds
from sosr_det.tensor_pickle import load_with_tensors

_EXPECTED = (
    "expected what `tools/test.py --out` of MMDetection writes: a list with a dict per image that has pred_instances "
    "(version 3), or a list per image of arrays [N, 5] per class (version 2)"
)


@dataclass(frozen=True, eq=False)
class PickledResults:
    """Detections of all images.

    Attributes:
        layout: MMDetection's major version that writes this layout, 3 or 2.
        image_index: int64 [N].
        labels: Position of the class; int64 [N].
        boxes: ``x1, y1, x2, y2``; float64 [N, 4].
        scores: float64 [N].
    """

    layout: Literal[3, 2]
    image_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def read_mmdet_pickle(
    path: str | Path, image_names: ImageNames, class_names: Sequence[str]
) -> PickledResults:
    """Read results of MMDetection.

    Raises:
        DataError: the pickle wants to run code (nothing of it is), is damaged or something else; images are missing,
            unknown or come twice; a label beyond the classes; NaN or infinite numbers,
            or a coordinate beyond all bounds. The message names the image.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        document = load_with_tensors(content)
    except Exception as error:  # whatever a damaged pickle makes Python's reader raise
        text = str(error).split("\n")[0]
        raise DataError(f"{path}: cannot be read as plain data: {shown(text, 200)}; {_EXPECTED}") from error
    if not isinstance(document, list) or not document:
        raise DataError(f"{path}: holds {shown(document)}; {_EXPECTED}")
    if isinstance(document[0], dict):
        images = _version_3(path, document)
        layout: Literal[3, 2] = 3
    else:
        images = _version_2(path, document, class_names)
        layout = 2
    boxes, labels, scores, counts = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros(0)], []
    total = 0
    for where, box, label, score in images:
        _check_image(f"{path}: {where}", box, label, score, len(class_names))
        total += len(box)
        if 8 * total > len(content):  # four numbers of two bytes a box
            raise DataError(f"{path}: {where}: more boxes than the file has room for; it repeats them")
        boxes.append(box.astype(np.float64))
        labels.append(label.astype(np.int64))
        scores.append(score.astype(np.float64))
        counts.append(len(box))
    index = np.array(_indices(path, document, image_names, layout), np.int64)
    return PickledResults(
        layout,
        np.repeat(index, counts),
        np.concatenate(labels),
        np.concatenate(boxes),
        np.concatenate(scores),
    )


Image = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # where it is; boxes, labels, scores


def _version_3(path: Path, document: list[Any]) -> Iterator[Image]:
    for number, entry in enumerate(document, 1):
        where = f"entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("pred_instances"), dict):
            keys = f"with the keys {listed(map(shown, entry))}" if isinstance(entry, dict) else shown(entry)
            raise DataError(f"{path}: {where} has no pred_instances ({keys}); {_EXPECTED}")
        where += f" ({shown(entry.get('img_path') or entry.get('img_id'))})"
        found = entry["pred_instances"]
        missing = [
            key for key in ("bboxes", "labels", "scores") if not isinstance(found.get(key), np.ndarray)
        ]
        if missing:
            raise DataError(f"{path}: {where}: pred_instances has no tensor {listed(missing)}; {_EXPECTED}")
        yield where, found["bboxes"], found["labels"], found["scores"]


def _version_2(path: Path, document: list[Any], class_names: Sequence[str]) -> Iterator[Image]:
    for number, entry in enumerate(document, 1):
        where = f"entry {number}"
        per_class = entry[0] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(per_class, list):
            raise DataError(f"{path}: {where} is {shown(per_class)}; {_EXPECTED}")
        if len(per_class) != len(class_names):
            raise DataError(
                f"{path}: {where} has detections of {len(per_class)} classes, expected {len(class_names)}: "
                f"{listed(class_names, 30)}"
            )
        for name, each in zip(class_names, per_class, strict=True):
            if not isinstance(each, np.ndarray) or each.ndim != 2 or each.shape[1] != 5:
                got = list(each.shape) if isinstance(each, np.ndarray) else shown(each)
                raise DataError(f"{path}: {where}, class {name!r}: expected an array [N, 5], got {got}")
        table = np.concatenate(per_class)
        labels = np.repeat(np.arange(len(class_names)), [len(each) for each in per_class])
        yield where, table[:, :4], labels, table[:, 4]


def _check_image(
    where: str, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, num_classes: int
) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not (labels.shape == scores.shape == (len(boxes),)):
        raise DataError(
            f"{where}: bboxes, labels and scores have the shapes {list(boxes.shape)}, {list(labels.shape)} and "
            f"{list(scores.shape)}, expected [N, 4], [N] and [N]"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels are {labels.dtype}, expected whole numbers")
    if any(values.dtype.kind not in "fiu" for values in (boxes, scores)):
        raise DataError(
            f"{where}: boxes and scores are {boxes.dtype} and {scores.dtype}, expected real numbers"
        )
    for what, values in (("score", scores), ("box", boxes)):
        bad = ~np.isfinite(values)
        if bad.any():
            number = int(bad.reshape(len(boxes), -1).any(axis=1).argmax())
            raise DataError(
                f"{where}: the {what} of detection {number + 1} is not finite: {values[number].tolist()}"
            )
    beyond = ~within_bounds(boxes)
    if beyond.any():
        number = int(beyond.argmax())
        raise DataError(f"{where}: the box of detection {number + 1} has {BEYOND}: {boxes[number].tolist()}")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise DataError(
            f"{where}: label {labels[outside][0]} is outside of 0..{num_classes - 1} ({num_classes} classes); give "
            "the classes (--classes) in the order of the detector's data set"
        )


def _indices(path: Path, document: list[Any], image_names: ImageNames, layout: int) -> list[int]:
    """Index of each entry's image; every image of the set must come once."""
    if layout == 2:
        if len(document) != len(image_names):
            raise DataError(
                f"{path}: {len(document)} entries for an image set of {len(image_names)} images. The entries have no "
                "names and stand for the images in the set's order; are these detections of another split?"
            )
        return list(range(len(document)))
    found: list[int | None] = [
        _index(path, number, entry, image_names) for number, entry in enumerate(document, 1)
    ]
    unknown = [number for number, index in enumerate(found, 1) if index is None]
    if unknown:
        entry = document[unknown[0] - 1]
        raise DataError(
            f"{path}: entry {unknown[0]}: image {shown(entry.get('img_path') or entry.get('img_id'))} is not in the "
            f"image set ({len(image_names)} images); {len(unknown)} of {len(found)} entries are of unknown images"
            + (". Are these detections of another split or year?" if 2 * len(unknown) > len(found) else "")
        )
    indices = [index for index in found if index is not None]
    first: dict[int, int] = {}
    for number, index in enumerate(indices, 1):
        if index in first:
            name = image_names.image_ids[index]
            raise DataError(
                f"{path}: entry {number}: image {name!r} comes twice, first as entry {first[index]}"
            )
        first[index] = number
    if len(indices) < len(image_names):
        missing = next(name for index, name in enumerate(image_names.image_ids) if index not in first)
        raise DataError(
            f"{path}: {len(image_names) - len(indices)} of the image set's {len(image_names)} images have no entry, "
            f"first {missing!r}. Was only a part of the data set tested? An image of which nothing is detected has an "
            "entry without boxes"
        )
    return indices


def _index(path: Path, number: int, entry: dict[str, Any], image_names: ImageNames) -> int | None:
    """By the file's name where there is one: a number may be a position in another list."""
    if type(entry.get("img_path")) is str:
        index = image_names.index_of_path(entry["img_path"])
        if index is not None:
            return index
    image_id = entry.get("img_id")
    try:
        return image_names.index(image_id) if type(image_id) in (int, str) else None
    except ValueError as error:
        raise DataError(f"{path}: entry {number}: {error}") from error
