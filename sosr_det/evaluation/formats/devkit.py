"""Detections in the development kit's text files, one a class: ``comp4_det_test_<class>.txt``.

A line is ``image_id score x1 y1 x2 y2``; coordinates are pixels, 1-based, inclusive, and stay as they are. Nothing is
repaired: a box that covers nothing or reaches beyond its image counts as it is written, as in the development kit.

Format: the development kit's documentation, http://host.robots.ox.ac.uk/pascal/VOC/.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import Detections
from sosr_det.evaluation.formats.text import listed, shown
from sosr_det.evaluation.input_checks import BEYOND, within_bounds

# Files are read in blocks of lines, so that Python's objects for the fields of millions of lines never exist at once.
_BLOCK = 1 << 20  # bytes
_LONGEST_LINE = 1 << 16  # bytes


def find_file_names(directory: str | Path, split: str) -> dict[str, list[str]]:
    """The kinds of detection files in a folder: ``{"comp4_det_test_{}.txt": ["aeroplane", ...]}``, by content of
    the names ``*_det_<split>_<class>.txt`` alone."""
    pattern = re.compile(rf"(.*det_{re.escape(split)}_)(.+)\.txt")
    found: dict[str, list[str]] = {}
    for path in sorted(Path(directory).iterdir()):
        match = pattern.fullmatch(path.name)
        if match is not None and path.is_file():
            found.setdefault(f"{match[1]}{{}}.txt", []).append(match[2])
    return found


def choose_file_name(directory: str | Path, split: str) -> tuple[str, list[str]]:
    """The one kind of detection files in a folder, and the classes that it has files of.

    Raises:
        DataError: there is none (files of other splits are named), or more than one (such as comp3 and comp4).
    """
    found = find_file_names(directory, split)
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        kinds = ", ".join(f"{name} ({len(classes)} classes)" for name, classes in found.items())
        raise DataError(
            f"{directory}: more than one kind of detection files: {kinds}. Name one with --file-name"
        )
    texts = sorted(p.name for p in Path(directory).iterdir() if p.suffix == ".txt")
    others = [name for name in texts if re.fullmatch(r".*det_[^_]+_.+\.txt", name)]
    raise DataError(
        f"{directory}: no detection file of the split {split!r} (*_det_{split}_<class>.txt)"
        + (f"; it has {listed(others, 3)}: detections of another split?" if others else "")
        + (
            f"; it has {listed(texts, 3)}; if these are the detections, give their name with {{}} for the class, such "
            f"as --file-name 'comp4_det_{split}_{{}}.txt'"
        )
        * (not others and bool(texts))
    )


def read_detections(
    directory: str | Path,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    *,
    file_name: str = "comp4_det_test_{}.txt",
    missing_class: Literal["error", "empty"] = "error",
) -> dict[str, Detections]:
    """Detections from one text file per class, with lines ``image_id score x1 y1 x2 y2``.

    An empty file is a class of which nothing was detected; a missing file is an error, unless asked for.

    Args:
        directory: Where the files are.
        image_ids: The images, as of :func:`sosr_det.evaluation.formats.voc_folder.read_image_set`;
            ``image_index`` counts in this order.
        class_names: Classes to read.
        file_name: Name of a class's file; ``{}`` stands for the class.
        missing_class: ``'empty'`` takes a missing file for an empty one.

    Returns:
        One entry per class name, detections in the file's order; 1-based boxes.

    Raises:
        DataError: If class files are missing, or a line (named with its number) does not have six fields, names an
            image that is not in ``image_ids``, or holds something other than finite numbers
            (coordinates within bounds).
    """
    if "{}" not in file_name:
        raise ValueError(f"file_name must have {{}} for the class, got {file_name!r}")
    if missing_class not in ("error", "empty"):
        raise ValueError(f"missing_class must be 'error' or 'empty', got {missing_class!r}")
    directory = Path(directory)
    paths = {name: directory / file_name.replace("{}", name) for name in class_names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing and (missing_class == "error" or len(missing) == len(paths)):
        raise DataError(
            f"{directory}: no detection file for {len(missing)} of {len(paths)} classes: "
            f"{listed((paths[name].name for name in missing), 20)}. A class without any detection needs an empty file"
        )
    index_of = {image_id.encode(): index for index, image_id in enumerate(image_ids)}
    return {
        name: Detections.empty() if name in missing else read_detection_file(path, index_of)
        for name, path in paths.items()
    }


def read_detection_file(path: Path, index_of: Mapping[bytes, int]) -> Detections:
    """One class's file. ``index_of``: an image's index by its id, in UTF-8.

    Raises:
        DataError: as :func:`read_detections`.
    """
    parts = []
    for first_line, block in _blocks(path):
        part = _whole_block(block, index_of)
        # Anything unusual: line by line, which either reads it or says what is wrong and where.
        parts.append(part if part is not None else _line_by_line(path, first_line, block, index_of))
    if not parts:
        return Detections.empty()
    numbers = np.concatenate([numbers for _, numbers in parts], axis=1)
    images = np.concatenate([images for images, _ in parts])
    return Detections(images, np.ascontiguousarray(numbers[1:].T), numbers[0])


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line, counted from 1."""
    number = 1
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                if not block.endswith(b"\n"):
                    block += stream.readline(_LONGEST_LINE)
                    if not block.endswith(b"\n") and len(block.rpartition(b"\n")[2]) >= _LONGEST_LINE:
                        line = number + block.count(b"\n")
                        raise DataError(
                            f"{path}:{line}: the line has more than {_LONGEST_LINE} bytes; "
                            "expected lines 'image_id score x1 y1 x2 y2'"
                        )
                yield number, block.removeprefix(codecs.BOM_UTF8) if number == 1 else block
                number += block.count(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _whole_block(block: bytes, index_of: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Image indices [N] and score, x1, y1, x2, y2 [5, N] of a block in which nothing is unusual; None otherwise."""
    rows = [fields for fields in map(bytes.split, block.split(b"\n")) if fields]
    if any(len(fields) != 6 for fields in rows):
        return None
    if not rows:
        return np.zeros(0, np.int64), np.zeros((5, 0))
    image_ids, *columns = zip(*rows, strict=True)
    images = list(map(index_of.get, image_ids))
    if None in images or any(b"_" in b"".join(column) for column in columns):  # float() takes 1_0 for 10
        return None
    try:
        numbers = np.array([list(map(float, column)) for column in columns], np.float64)
    except ValueError:
        return None
    usual = np.isfinite(numbers[0]).all() and within_bounds(numbers[1:].T).all()
    return (np.array(images, np.int64), numbers) if usual else None


def _line_by_line(
    path: Path, first_line: int, block: bytes, index_of: Mapping[bytes, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same, slowly, with every check.

    Raises:
        DataError: with the file, the line and what is wrong there.
    """
    images, numbers = [], []
    for number, line in enumerate(block.split(b"\n"), first_line):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 6:
            raise DataError(
                f"{path}:{number}: expected 6 fields 'image_id score x1 y1 x2 y2', got {len(fields)}: {shown(line)}"
            )
        values = tuple(_number(field, f"{path}:{number}", line) for field in fields[1:])
        if not all(map(math.isfinite, values)):
            what = "box" if math.isfinite(values[0]) else "score"
            raise DataError(f"{path}:{number}: the {what} is not finite: {shown(line)}")
        if not within_bounds(np.array(values[1:])):
            raise DataError(f"{path}:{number}: the box has {BEYOND}: {shown(line)}")
        if fields[0] not in index_of:
            raise DataError(_unknown_image(path, number, fields[0], index_of))
        images.append(index_of[fields[0]])
        numbers.append(values)
    return np.array(images, np.int64), np.array(numbers, np.float64).reshape(-1, 5).T


def _number(field: bytes, where: str, line: bytes) -> float:
    try:
        if b"_" in field:
            raise ValueError
        return float(field)
    except ValueError:
        raise DataError(f"{where}: {shown(field)} is not a number: {shown(line)}") from None


def _unknown_image(path: Path, number: int, image_id: bytes, index_of: Mapping[bytes, int]) -> str:
    """The message for an image that is not in the image set, with how many lines are alike."""
    lines = unknown = 0
    for _, block in _blocks(path):
        for line in block.split(b"\n"):
            fields = line.split(maxsplit=1)
            lines += bool(fields)
            unknown += bool(fields) and fields[0] not in index_of
    message = (
        f"{path}:{number}: image {shown(image_id)} is not in the image set ({len(index_of)} images); {unknown} of "
        f"the file's {lines} lines name unknown images"
    )
    return message + (". Are these detections of another split or year?" if 2 * unknown > lines else "")
