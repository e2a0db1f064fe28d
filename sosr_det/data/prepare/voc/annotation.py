"""One annotation file against what training and evaluation need of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sosr_det.data.prepare.inspection import Problem
from sosr_det.data.prepare.voc.spelling import suggestion
from sosr_det.data.voc_xml import VOCAnnotation, VOCObject, parse_voc_xml
from sosr_det.errors import DataError

_Report = Callable[[str, str], None]  # takes a problem's kind and reason


@dataclass
class CheckedAnnotation:
    """What one file holds.

    Attributes:
        objects: (class, difficult, truncated) of every object; None if the file cannot be read.
        problems: what is wrong with it.
        notes: what is worth knowing, as texts that are the same for every file with it.
    """

    objects: list[tuple[str, bool, bool]] | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_annotation(
    content: bytes,
    path: str,
    identity: str,
    classes: Sequence[str] | None,
    image_size: tuple[int, int] | None,
) -> CheckedAnnotation:
    """Check one annotation. What training refuses as unreadable, by the same reader, is ``malformed`` here.

    Boxes are taken as training takes them: fractions cut off, 1-based and inclusive, inside the size that the file
    gives, or the image's if it gives none.

    Args:
        content: the file's bytes.
        path: its path relative to the data set, for the problems.
        identity: the image's id, the file's name without ``.xml``.
        classes: known class names, or None for any.
        image_size: (width, height) in pixels of the decoded image, or None if it could not be decoded.
    """
    checked = CheckedAnnotation()

    def problem(kind: str, reason: str) -> None:
        checked.problems.append(Problem(kind, path, reason))

    try:
        annotation = parse_voc_xml(content, path)
    except DataError as error:
        problem("malformed", str(error).removeprefix(f"{path}: "))
        return checked
    root = ET.fromstring(content)  # for what training does not read
    if root.tag != "annotation":
        problem("foreign", f"its outermost element is <{root.tag[:80]}>, expected <annotation>")
    _note_names(root, identity, checked.notes)
    _check_flags(root, problem, checked.notes)
    if annotation.size is None:
        checked.notes.append("no <size>; the image's own is used")
    elif image_size is not None and annotation.size != image_size:
        problem("size", _size_reason(annotation.size, image_size))
    _check_objects(annotation, annotation.size or image_size, classes, problem, checked.notes)
    checked.objects = [(item.name, item.difficult, bool(item.truncated)) for item in annotation.objects]
    return checked


def _note_names(root: ET.Element, identity: str, notes: list[str]) -> None:
    filename = root.findtext("filename")
    # With or without ending and folder: both are usual. Nothing reads it, but it tells of mixed-up files.
    stem = (filename or "").replace("\\", "/").rpartition("/")[2]
    if filename and identity.rpartition("/")[2] not in (stem, stem.rpartition(".")[0]):
        notes.append("<filename> names another file than the list; training goes by the list")


def _check_flags(root: ET.Element, problem: _Report, notes: list[str]) -> None:
    for number, element in enumerate(root.findall("object"), 1):
        if (text := element.findtext("difficult", "0").strip()) not in ("0", "1"):
            problem(
                "flag",
                f"object {number} ({element.findtext('name')}): <difficult> is {text[:80]!r}, expected 0 or 1",
            )
        if element.findtext("truncated", "0").strip() not in ("0", "1"):
            notes.append("<truncated> is neither 0 nor 1; only the analysis of errors reads it")


def _size_reason(written: tuple[int, int], real: tuple[int, int]) -> str:
    reason = f"<size> is {written[0]} x {written[1]}, but the image is {real[0]} x {real[1]} pixels"
    if written == real[::-1]:
        reason += (
            " (width and height are exchanged, or the image's EXIF data turns it after it was annotated)"
        )
    return reason


def _check_objects(
    annotation: VOCAnnotation,
    size: tuple[int, int] | None,
    classes: Sequence[str] | None,
    problem: _Report,
    notes: list[str],
) -> None:
    if not annotation.objects:
        notes.append("no objects; filter_empty_gt leaves the image out of training")
    for number, item in enumerate(annotation.objects, 1):
        where = f"object {number} ({item.name})"
        if classes is not None and item.name not in classes:
            meant = suggestion(item.name, classes)
            hint = f"; is {meant!r} meant?" if meant else ""
            problem(
                "class", f"object {number}: {item.name[:80]!r} is none of the {len(classes)} classes{hint}"
            )
        _check_box(item, where, size, problem)
        if any(value != int(value) for value in item.box):
            notes.append("fractions in coordinates; they are cut off")
    counts = Counter((item.name, *map(int, item.box)) for item in annotation.objects)
    notes += ["the same box of the same class again"] * sum(count - 1 for count in counts.values())


def _check_box(item: VOCObject, where: str, size: tuple[int, int] | None, problem: _Report) -> None:
    """As :class:`~sosr_det.data.voc.CheckedVOCDataset`: left out if degenerate, else cut off at the border."""
    xmin, ymin, xmax, ymax = map(int, item.box)
    box = f"{where}: box {xmin},{ymin},{xmax},{ymax}"
    if xmax <= xmin or ymax <= ymin:
        sides = " and ".join(
            text for text, empty in (("xmax <= xmin", xmax <= xmin), ("ymax <= ymin", ymax <= ymin)) if empty
        )
        problem("degenerate", f"{box} has no area: {sides}")
        return
    if size is None:
        return
    width, height = size
    inside = max(xmin, 1), max(ymin, 1), min(xmax, width), min(ymax, height)
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        problem("outside", f"{box} is outside of the image of {width} x {height} pixels")
    elif inside != (xmin, ymin, xmax, ymax):
        zero = " (coordinates count from 1)" if min(xmin, ymin) == 0 else ""
        problem("clipped", f"{box} is partly outside of the image of {width} x {height} pixels{zero}")
