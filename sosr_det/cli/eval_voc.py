"""``sosr-det eval-voc``: average precision of detections in files, by PASCAL VOC's rules."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sosr_det.errors import ConfigError, DataError
from sosr_det.registry.plain_text import clean


class MetricName(StrEnum):
    """AP's two definitions."""

    ELEVEN_POINT = "11point"
    AREA = "area"
    BOTH = "both"


class RecallName(StrEnum):
    """How recall is compared with the eleven levels."""

    EXACT = "exact"
    ARANGE = "arange"


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


def eval_voc(
    detections: Annotated[
        Path,
        typer.Option(
            help="Folder with the devkit's text files (comp4_det_test_<class>.txt), COCO results (JSON), a pickle of "
            "MMDetection's tools/test.py --out, or detections.npz of sosr-det test. Found out by content."
        ),
    ],
    voc_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder that holds VOC2007/, usually called VOCdevkit. Not needed for detections.npz.",
            show_default=False,
        ),
    ] = None,
    year: Annotated[str, typer.Option(help="Of the annotations: VOC<year>.")] = "2007",
    split: Annotated[str, typer.Option(help="Image set: ImageSets/Main/<split>.txt.")] = "test",
    metric: Annotated[MetricName, typer.Option(help="Which AP.")] = MetricName.BOTH,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write everything, at full precision, as JSON; '-' for stdout with nothing else there.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes with commas, in the order in which numbers count them. Default: the 20 of PASCAL VOC, or "
            "what the split's annotations hold.",
            show_default=False,
        ),
    ] = None,
    iou: Annotated[
        list[float] | None, typer.Option(help="IoU that a match must exceed; repeat for more. Default: 0.5.")
    ] = None,
    iou_at_least: Annotated[
        bool, typer.Option("--iou-at-least", help="IoU >= threshold instead of >, as in MMDetection.")
    ] = False,
    coco: Annotated[bool, typer.Option("--coco", help="COCO's AP too (slower).")] = False,
    recall_thresholds: Annotated[
        RecallName,
        typer.Option(
            help="11-point: k/10 exactly, or the floats of np.arange as in the Python ports of the devkit."
        ),
    ] = RecallName.EXACT,
    file_name: Annotated[
        str | None,
        typer.Option(
            help="A class's text file, {} for the class. Default: *det_<split>_{}.txt.", show_default=False
        ),
    ] = None,
    missing_class: Annotated[
        MissingClass, typer.Option(help="What a missing text file is.")
    ] = MissingClass.ERROR,
    box_format: Annotated[
        BoxFormatName | None,
        typer.Option(
            help="How COCO results and MMDetection's pickles write boxes, see docs/evaluation.md. Default: edges for "
            "COCO, zero-based for MMDetection.",
            show_default=False,
        ),
    ] = None,
    first_category_id: Annotated[
        int | None,
        typer.Option(
            min=0, max=1, help="COCO's id of the first class, where the ids don't tell.", show_default=False
        ),
    ] = None,
    coco_annotations: Annotated[
        Path | None,
        typer.Option(
            help="Annotation file that the COCO results belong to: says which image, class and kind of box is meant.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Average precision of detections in files against VOC annotations, by the development kit's rules.

    Boxes are pixel-inclusive, difficult objects ignored, IoU > 0.5, each object found once. Anything missing,
    malformed or unknown is an error with file and line, never a silent 0.
    """
    names = _class_names(classes)
    thresholds = _thresholds(iou, iou_at_least)
    if json_out is not None and str(json_out) != "-":
        _check_writable(json_out)

    from sosr_det.evaluation.all_metrics import evaluate_detections
    from sosr_det.evaluation.ap_document import ap_document, write_document
    from sosr_det.evaluation.ap_report import report_lines, result_notes
    from sosr_det.evaluation.formats.reading import Reading, read_detection_files

    how = Reading(
        voc_root=voc_root,
        year=year.upper().removeprefix("VOC"),
        split=split,
        class_names=names,
        file_name=file_name,
        missing_class=missing_class.value,
        box_format=None if box_format is None else box_format.value,
        first_category_id=first_category_id,
        coco_annotations=coco_annotations,
    )
    read = read_detection_files(detections, how)
    try:
        metrics = evaluate_detections(
            read.data,
            iou_thresholds=thresholds,
            recall_thresholds=recall_thresholds.value,
            iou_comparison=">=" if iou_at_least else ">",
            coco=coco,
        )
    except ValueError as error:  # what the files hold and no reader has refused
        raise DataError(f"{detections}: {error}") from error
    notes = [*read.notes, *result_notes(metrics, metric.value)]
    document = ap_document(metrics, metric.value, read.inputs, notes)
    if json_out is not None and str(json_out) == "-":
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    if json_out is not None:
        write_document(json_out, document)
    for line in report_lines(metrics, metric.value, read.inputs, notes):
        typer.echo(clean(line))  # class names and paths are others' texts
    if json_out is not None:
        typer.echo(f"written: {json_out}")


def _class_names(classes: str | None) -> list[str] | None:
    if classes is None:
        return None
    names = [name.strip() for name in classes.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--classes {classes!r}: expected names with commas between them, each once")
    return names


def _thresholds(iou: list[float] | None, at_least: bool) -> list[float]:
    thresholds = list(iou or [0.5])
    for threshold in thresholds:
        if not 0 <= threshold < 1 or (at_least and threshold == 0):
            raise ConfigError(
                f"--iou {threshold}: expected a number from 0 to less than 1 (with --iou-at-least more than 0)"
            )
    if len(set(thresholds)) < len(thresholds):
        raise ConfigError(f"--iou: a threshold twice: {', '.join(map(str, thresholds))}")
    return thresholds


def _check_writable(path: Path) -> None:
    """Before anything is computed."""
    if path.is_dir():
        raise ConfigError(f"--json {path}: is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--json {path}: the folder {path.parent} cannot be written")
