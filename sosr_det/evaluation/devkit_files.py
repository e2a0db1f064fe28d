"""Readers for the PASCAL VOC development kit's files: image sets, annotations, detection results.

Coordinates stay as they are in the files: pixels, 1-based, inclusive. Ground truth and detections of the same
kit therefore belong together, and go straight into :func:`sosr_det.evaluation.voc_ap.evaluate_voc`.
Nothing is repaired: a box that covers a single pixel or reaches beyond its image counts as it is written, as in
the development kit. (Training and validation through ``CheckedVOCDataset`` leave such boxes out.)

Formats: the development kit's documentation, http://host.robots.ox.ac.uk/pascal/VOC/.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError
from sosr_det.evaluation.voc_ap import Detections, GroundTruth


def read_image_set(path: str | Path) -> list[str]:
    """Image ids of an image-set list such as ``ImageSets/Main/test.txt``, one a line; blank lines are skipped.

    Raises:
        DataError: If the file is missing or empty, a line holds more than an id, or an id comes twice.
    """
    path = Path(path)
    image_ids: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path, "an image-set list (one image id a line)"):
        if len(line.split()) != 1:
            raise DataError(
                f"{path}:{number}: expected one image id, got {line!r}. Lists per class (such as 'cat_test.txt') "
                "have a second column; the plain list (such as 'test.txt') is needed here"
            )
        image_id = line.strip()
        if image_id in first_line:
            raise DataError(
                f"{path}:{number}: image {image_id!r} is listed twice, first in line {first_line[image_id]}"
            )
        first_line[image_id] = number
        image_ids.append(image_id)
    if not image_ids:
        raise DataError(f"{path}: no image ids in it")
    return image_ids


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
        image_ids: The images, as of :func:`read_image_set`; ``image_index`` counts in this order.
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
    annotations_dir = Path(annotations_dir)
    if not annotations_dir.is_dir():
        raise DataError(
            f"{annotations_dir}: no such folder; expected VOC annotations (one XML file per image)"
        )
    rows: dict[str, list[tuple[int, tuple[float, float, float, float], bool]]] = {n: [] for n in class_names}
    unknown: Counter[str] = Counter()
    for index, image_id in enumerate(image_ids):
        path = annotations_dir / f"{image_id}.xml"
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; the image set lists image {image_id!r}") from error
        for obj in parse_voc_xml(content, str(path)).objects:
            xmin, ymin, xmax, ymax = obj.box
            if obj.name not in rows:
                unknown[obj.name] += 1
                continue
            if xmax < xmin or ymax < ymin:
                raise DataError(
                    f"{path}: {obj.name!r} has the box {list(obj.box)}: xmax < xmin or ymax < ymin"
                )
            rows[obj.name].append((index, obj.box, obj.difficult))
    if unknown and unknown_classes == "error":
        raise DataError(
            f"{annotations_dir}: objects of unknown classes: {dict(sorted(unknown.items()))}; expected only "
            f"{list(class_names)}. Correct the class names, or ignore the others with unknown_classes='ignore'"
        )
    return {
        name: GroundTruth(
            np.array([r[0] for r in class_rows], np.int64),
            np.array([r[1] for r in class_rows], np.float64).reshape(-1, 4),
            np.array([r[2] for r in class_rows], bool),
        )
        for name, class_rows in rows.items()
    }


def read_detections(
    directory: str | Path,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    *,
    file_name: str = "comp4_det_test_{}.txt",
) -> dict[str, Detections]:
    """Detections from one text file per class, with lines ``image_id score x1 y1 x2 y2``.

    An empty file is a class of which nothing was detected; a missing file is an error.

    Args:
        directory: Where the files are.
        image_ids: The images, as of :func:`read_image_set`; ``image_index`` counts in this order.
        class_names: Classes to read.
        file_name: Name of a class's file; ``{}`` stands for the class.

    Returns:
        One entry per class name, detections in the file's order; 1-based boxes.

    Raises:
        DataError: If class files are missing, or a line (named with its number) does not have six fields, names an
            image that is not in ``image_ids``, or holds something other than finite numbers.
    """
    if "{}" not in file_name:
        raise ValueError(f"file_name must have {{}} for the class, got {file_name!r}")
    directory = Path(directory)
    paths = {name: directory / file_name.format(name) for name in class_names}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise DataError(
            f"{directory}: no detection file for {len(missing)} of {len(paths)} classes: {', '.join(missing)}. "
            "A class without any detection needs an empty file"
        )
    index_of = {image_id: index for index, image_id in enumerate(image_ids)}
    return {name: _read_detection_file(path, index_of) for name, path in paths.items()}


def _read_detection_file(path: Path, index_of: dict[str, int]) -> Detections:
    image_index: list[int] = []
    numbers: list[tuple[float, ...]] = []
    for number, line in _lines(path, "a detection file (lines 'image_id score x1 y1 x2 y2')"):
        image_id, *fields = line.split()
        if len(fields) != 5:
            raise DataError(
                f"{path}:{number}: expected 6 fields 'image_id score x1 y1 x2 y2', got {len(fields) + 1}: {line!r}"
            )
        try:
            values = tuple(map(float, fields))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}: {line!r}") from error
        if not all(map(math.isfinite, values)):
            what = "box" if math.isfinite(values[0]) else "score"
            raise DataError(f"{path}:{number}: the {what} is not finite: {line!r}")
        if image_id not in index_of:
            raise DataError(
                f"{path}:{number}: image {image_id!r} is not in the image set ({len(index_of)} images)"
            )
        image_index.append(index_of[image_id])
        numbers.append(values)
    table = np.array(numbers, np.float64).reshape(-1, 5)
    return Detections(np.array(image_index, np.int64), table[:, 1:], table[:, 0])


def _lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Non-blank lines with their numbers, counted from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"{path}: not {what}: {error}") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
