"""COCO's results file: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``.

Format: https://cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.box_formats import corners_of
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.text import listed, shown
from sosr_det.evaluation.input_checks import BEYOND, within_bounds
from sosr_det.plain_json import DECODER, NotJsonError

_BLANK = re.compile(r"[ \t\n\r]*")
_CONSTANT = re.compile(r"NaN|-?Infinity")
_UNKNOWN = -1  # index of an image that is not in the set
_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True, eq=False)
class CocoResults:
    """Detections as the file has them, in its order.

    Attributes:
        image_index: int64 [N].
        category_ids: int64 [N].
        boxes: ``x, y, w, h``; float64 [N, 4].
        scores: float64 [N].
        place: The file, line and number of a detection, for messages.
    """

    image_index: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    place: Callable[[int], str]


def read_coco_results(
    path: str | Path, image_names: ImageNames, known: dict[Any, str] | None = None
) -> CocoResults:
    """Read a results file.

    The results are decoded one by one: beside the file's text, memory holds their numbers alone.

    Args:
        path: The file.
        image_names: The image set.
        known: If given, the file name of each image by its ``image_id``; ids that are not in it are unknown.

    Raises:
        DataError: not such a file, a result without one of the four values or with another kind of value, NaN or
            an infinite number, a coordinate beyond all bounds, a negative width or height, or unknown images; with the
            line and the number of the result.
    """
    path = Path(path)
    text = _text(path)
    offsets, images, categories = array("q"), array("q"), array("q")
    numbers = array("d")
    first_unknown: tuple[int, Any] | None = None
    index_of: dict[Any, int | None] = {}

    def place(number: int) -> str:
        return f"{path}:{text.count(chr(10), 0, offsets[number]) + 1}: result {number + 1} (counted from 1)"

    for result, start in _elements(path, text):
        offsets.append(start)
        number = len(offsets) - 1
        try:
            image_id, category_id, box, score = _values(result)
            if (type(image_id), image_id) not in index_of:
                name = image_id if known is None else known.get(image_id)
                index_of[type(image_id), image_id] = None if name is None else image_names.index(name)
            index = index_of[type(image_id), image_id]
            numbers.extend((*box, score))
            categories.append(category_id)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{place(number)}: {error}") from error
        if index is None and first_unknown is None:
            first_unknown = (number, image_id)
        images.append(_UNKNOWN if index is None else index)
    if first_unknown is not None:
        where, count = place(first_unknown[0]), images.count(_UNKNOWN)
        raise DataError(
            _unknown_images(
                where, first_unknown[1], count, len(images), index_of, image_names, known is not None
            )
        )
    table = np.array(numbers, np.float64).reshape(-1, 5)
    bad = ~np.isfinite(table).all(axis=1)
    if bad.any():
        number = int(bad.argmax())
        what = "box" if np.isfinite(table[number, 4]) else "score"
        raise DataError(f"{place(number)}: the {what} is not finite")
    with np.errstate(over="ignore"):
        bad = ~(within_bounds(table[:, :4]) & within_bounds(corners_of(table[:, :4])))
    if bad.any():
        number = int(bad.argmax())
        raise DataError(f"{place(number)}: the box {table[number, :4].tolist()} has {BEYOND}")
    bad = (table[:, 2:4] < 0).any(axis=1)
    if bad.any():
        number = int(bad.argmax())
        raise DataError(
            f"{place(number)}: the box {table[number, :4].tolist()} has a negative width or height; expected "
            "[x, y, width, height]"
        )
    return CocoResults(
        np.array(images, np.int64), np.array(categories, np.int64), table[:, :4], table[:, 4], place
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _elements(path: Path, text: str) -> Iterator[tuple[Any, int]]:
    """The elements of a JSON list, one by one, each with its place in the text.

    Raises:
        DataError: it is no such list, with the line and column.
    """

    def error(what: str, position: int) -> DataError:
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        return DataError(f"{path}:{line}:{column}: {what}")

    def skip(position: int) -> int:
        return _BLANK.match(text, position).end()  # type: ignore[union-attr]  # matches anywhere

    position = skip(0)
    if text[position : position + 1] != "[":
        what = (
            "a JSON object, but COCO results are a list; is this the annotation file?"
            if text[position : position + 1] == "{"
            else "expected a JSON list of results"
        )
        raise error(what, position)
    position = skip(position + 1)
    if text[position : position + 1] == "]":
        position += 1
    else:
        while True:
            try:
                value, end = DECODER.scan_once(text, position)
            except StopIteration as stop:
                raise error("not JSON here; is the file complete?", stop.value) from None
            except json.JSONDecodeError as problem:
                raise error(f"not JSON: {problem.msg}", problem.pos) from problem
            except NotJsonError as problem:
                found = _CONSTANT.search(text, position)
                at = found.start() if found and found[0] in str(problem) else position
                raise error(f"not JSON: {problem}", at) from None
            except RecursionError:
                raise error("nested too deeply", position) from None
            except ValueError as problem:  # a whole number of thousands of digits
                raise error(f"not JSON: {problem}", position) from None
            yield value, position
            position = skip(end)
            if text[position : position + 1] != ",":
                break
            position = skip(position + 1)
        if text[position : position + 1] != "]":
            raise error("expected ',' or ']'; is the file complete?", position)
        position += 1
    if skip(position) != len(text):
        raise error("more text after the list", skip(position))


def _values(result: Any) -> tuple[Any, int, list[float], float]:
    """The four values, each of the right kind.

    Raises:
        ValueError: one is missing or of another kind.
    """
    if type(result) is not dict:
        raise ValueError(f"expected an object with {', '.join(_KEYS)}, got {shown(result)}")
    try:
        image_id, category_id, box, score = [result[key] for key in _KEYS]
    except KeyError as error:
        raise ValueError(f"{error} is missing; its keys are {listed(map(shown, result))}") from None
    if type(image_id) not in (int, str):
        raise ValueError(f"image_id must be a whole number or a text, got {shown(image_id)}")
    if type(category_id) is not int:
        raise ValueError(f"category_id must be a whole number, got {shown(category_id)}")
    if type(score) not in (int, float):
        raise ValueError(f"score must be a number, got {shown(score)}")
    if type(box) is not list or len(box) != 4 or any(type(each) not in (int, float) for each in box):
        raise ValueError(f"bbox must be four numbers [x, y, width, height], got {shown(box)}")
    return image_id, category_id, box, score


def _unknown_images(
    where: str,
    image_id: Any,
    count: int,
    num_results: int,
    index_of: dict[Any, int | None],
    image_names: ImageNames,
    with_annotations: bool,
) -> str:
    num_images = sum(index is None for index in index_of.values())
    message = (
        f"{where}: image {shown(image_id)} is not in the image set ({len(image_names)} images)"
        f"{' or not in the annotation file' if with_annotations else ''}; {count} of {num_results} results are of "
        f"{num_images} unknown images"
    )
    numbers = [number for kind, number in index_of if kind is int]
    if not with_annotations and len(numbers) == len(index_of) and min(numbers) in (0, 1):
        return (
            f"{message}. The image ids are {min(numbers)}..{max(numbers)}: if they are positions in a list, give the "
            "annotation file that they belong to (--coco-annotations)"
        )
    return message + (". Are these detections of another split or year?" if 2 * count > num_results else "")
