"""``sosr-det eval-voc``: average precision of detections in files, by PASCAL VOC's rules."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sosr_det.cli import detection_options as options
from sosr_det.cli.json_target import check_json_target
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


def eval_voc(
    detections: Annotated[
        Path,
        typer.Option(
            help="Folder with the devkit's text files (comp4_det_test_<class>.txt), COCO results (JSON), a pickle of "
            "MMDetection's tools/test.py --out, or detections.npz of sosr-det test. Found out by content."
        ),
    ],
    voc_root: options.VocRoot = None,
    year: options.Year = "2007",
    split: options.Split = "test",
    metric: Annotated[MetricName, typer.Option(help="Which AP.")] = MetricName.BOTH,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write everything, at full precision, as JSON; '-' for stdout with nothing else there.",
            show_default=False,
        ),
    ] = None,
    classes: options.Classes = None,
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
    file_name: options.FileName = None,
    missing_class: options.Missing = options.MissingClass.ERROR,
    box_format: options.BoxFormat = None,
    first_category_id: options.FirstCategoryId = None,
    coco_annotations: options.CocoAnnotations = None,
) -> None:
    """Average precision of detections in files against VOC annotations, by the development kit's rules.

    Boxes are pixel-inclusive, difficult objects ignored, IoU > 0.5, each object found once. Anything missing,
    malformed or unknown is an error with file and line, never a silent 0.
    """
    thresholds = _thresholds(iou, iou_at_least)
    how = options.reading(
        voc_root=voc_root,
        year=year,
        split=split,
        classes=classes,
        file_name=file_name,
        missing_class=missing_class,
        box_format=box_format,
        first_category_id=first_category_id,
        coco_annotations=coco_annotations,
    )
    if json_out is not None and str(json_out) != "-":
        check_json_target(json_out, detections, how)

    from sosr_det.evaluation.all_metrics import evaluate_detections
    from sosr_det.evaluation.ap_document import ap_document, json_text, write_document
    from sosr_det.evaluation.ap_report import report_lines, result_notes
    from sosr_det.evaluation.formats.reading import read_detection_files

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
        typer.echo(json_text(document))
        return
    if json_out is not None:
        write_document(json_out, document)
    for line in report_lines(metrics, metric.value, read.inputs, notes):
        typer.echo(clean(line))  # class names and paths are others' texts
    if json_out is not None:
        typer.echo(clean(f"written: {json_out}"))


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
