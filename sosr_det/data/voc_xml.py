"""One PASCAL VOC annotation file, read strictly: what MMDetection takes for granted is checked here.

Standard library only, so that the evaluation of the development kit's text files can use it too.
Format: the annotation section of the development kit's documentation, http://host.robots.ox.ac.uk/pascal/VOC/.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from sosr_det.errors import DataError

MAX_SIDE = 2**31 - 1  # pixels; no image is as large, and sizes fit into any integer


@dataclass(frozen=True)
class VOCObject:
    """One ``<object>``.

    Attributes:
        name: Class name, exactly as written.
        difficult: False if the element is missing.
        box: ``xmin, ymin, xmax, ymax`` as written: pixels, 1-based, inclusive; may have fractions.
        truncated: Whether the object reaches beyond its box; None if the file does not say 0 or another whole number.
            That is no error, since neither training nor any average precision depends on it.
    """

    name: str
    difficult: bool
    box: tuple[float, float, float, float]
    truncated: bool | None = None


@dataclass(frozen=True)
class VOCAnnotation:
    """One annotation file.

    Attributes:
        size: ``(width, height)`` in pixels, both 1 to 2**31 - 1; None if the file does not say.
        objects: In the file's order.
    """

    size: tuple[int, int] | None
    objects: tuple[VOCObject, ...]


def parse_voc_xml(content: bytes, path: str) -> VOCAnnotation:
    """Parse one VOC annotation.

    Args:
        content: The file's bytes.
        path: The file's name, for error messages.

    Raises:
        DataError: If the XML is malformed (with the parser's line), or an object has no name or box, a
            coordinate is not a finite number, ``difficult`` is not an integer, or the size not in its range.
    """
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: undeclared or unknown encodings
        # A ParseError's text ends with "line L, column C".
        raise DataError(f"{path}: not a readable XML file: {error}") from error
    size_element = root.find("size")
    size = None
    if size_element is not None:
        size = (_positive(size_element, "width", path), _positive(size_element, "height", path))
    objects = tuple(
        _object(element, f"{path}: object {i}") for i, element in enumerate(root.findall("object"), 1)
    )
    return VOCAnnotation(size, objects)


def _shown(text: str) -> str:
    """What a file says, quoted for a message, and not at any length."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _object(element: ET.Element, where: str) -> VOCObject:
    name = element.findtext("name")
    if not name:
        raise DataError(f"{where} (counted from 1) has no <name>")
    where = f"{where} ({_shown(name)})"
    difficult_text = element.findtext("difficult", "0")
    try:
        difficult = bool(int(difficult_text))
    except ValueError as error:
        raise DataError(f"{where}: <difficult> must be 0 or 1, got {_shown(difficult_text)}") from error
    # Direct child only: VOC2012's person-layout parts have boxes of their own further down.
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"{where} has no <bndbox>")
    xmin, ymin, xmax, ymax = (_coordinate(box, tag, where) for tag in ("xmin", "ymin", "xmax", "ymax"))
    try:
        truncated = bool(int(element.findtext("truncated", "")))
    except ValueError:
        truncated = None
    return VOCObject(name, difficult, (xmin, ymin, xmax, ymax), truncated)


def _coordinate(box: ET.Element, tag: str, where: str) -> float:
    text = box.findtext(tag)
    try:
        value = float(text if text is not None else "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "missing" if text is None else _shown(text)
        raise DataError(f"{where}: <{tag}> must be a finite number, is {found}")
    return value


def _positive(size: ET.Element, tag: str, path: str) -> int:
    text = size.findtext(tag)
    try:
        value = int(text if text is not None else "")
    except ValueError:
        value = 0
    if not 0 < value <= MAX_SIDE:
        found = "missing" if text is None else _shown(text)
        limit = "" if value <= 0 else f" of at most {MAX_SIDE}"
        raise DataError(f"{path}: <size> needs a positive whole number{limit} as <{tag}>, is {found}")
    return value
