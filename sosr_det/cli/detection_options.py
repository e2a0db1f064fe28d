"""Options of the commands that read detections from files: ``eval-voc`` and ``analyze-errors``."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.errors import ConfigError

if TYPE_CHECKING:
    from sosr_det.evaluation.formats.reading import Reading


class MissingClass(StrEnum):
    """What a missing text file means."""

    ERROR = "error"
    EMPTY = "empty"


class BoxFormatName(StrEnum):
    """As in sosr_det.evaluation.formats.box_formats; here as well so that `--help` stays light."""

    EDGES = "edges"
    ZERO_BASED = "zero-based"
    ONE_BASED = "one-based"
    ONE_BASED_PIXELS = "one-based-pixels"


VocRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds VOC2007/, usually called VOCdevkit. Not needed for detections.npz.",
        show_default=False,
    ),
]
Year = Annotated[str, typer.Option(help="Of the annotations: VOC<year>.")]
Split = Annotated[str, typer.Option(help="Image set: ImageSets/Main/<split>.txt.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Classes with commas, in the order in which numbers count them. Default: the 20 of PASCAL VOC, or, "
        "where no numbers stand for them, what the split's annotations hold.",
        show_default=False,
    ),
]
FileName = Annotated[
    str | None,
    typer.Option(
        help="A class's text file, {} for the class. Default: *det_<split>_{}.txt.", show_default=False
    ),
]
Missing = Annotated[MissingClass, typer.Option(help="What a missing text file is.")]
BoxFormat = Annotated[
    BoxFormatName | None,
    typer.Option(
        help="How COCO results and MMDetection's pickles write boxes, see docs/evaluation.md. Default: edges for "
        "COCO, zero-based for MMDetection.",
        show_default=False,
    ),
]
FirstCategoryId = Annotated[
    int | None,
    typer.Option(
        min=0, max=1, help="COCO's id of the first class, where the ids don't tell.", show_default=False
    ),
]
CocoAnnotations = Annotated[
    Path | None,
    typer.Option(
        help="Annotation file that the COCO results belong to: says which image, class and kind of box is meant.",
        show_default=False,
    ),
]


def reading(
    *,
    voc_root: Path | None,
    year: str,
    split: str,
    classes: str | None,
    file_name: str | None,
    missing_class: MissingClass,
    box_format: BoxFormatName | None,
    first_category_id: int | None,
    coco_annotations: Path | None,
) -> Reading:
    """The options as the readers take them.

    Raises:
        ConfigError: ``--classes`` is no list of names.
    """
    from sosr_det.evaluation.formats.reading import Reading

    return Reading(
        voc_root=voc_root,
        year=re.sub("^voc", "", year, flags=re.IGNORECASE),
        split=split,
        class_names=class_names(classes),
        file_name=file_name,
        missing_class=missing_class.value,
        box_format=None if box_format is None else box_format.value,
        first_category_id=first_category_id,
        coco_annotations=coco_annotations,
    )


def class_names(classes: str | None) -> list[str] | None:
    """The names in ``--classes``."""
    if classes is None:
        return None
    names = [name.strip() for name in classes.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--classes {classes!r}: expected names with commas between them, each once")
    try:
        classes.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8
        raise ConfigError(f"--classes {classes!r}: not text that can be written as UTF-8") from error
    return names
