"""``sosr-det analyze-errors``: why a detector's average precision is what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.cli.eval_voc import BoxFormatName
from sosr_det.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sosr_det.evaluation.errors import ErrorAnalysis
    from sosr_det.evaluation.formats.reading import DetectionFiles


def analyze_errors(
    detections: Annotated[
        Path,
        typer.Argument(
            help="Folder or detections.npz of `sosr-det test`, or, with --voc-root, detections in any format that "
            "`sosr-det eval-voc` reads."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The report goes to OUT/report, in place of an earlier one. Default: beside the detections.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the image files, or a VOC folder with JPEGImages/. Default: where the test had them, or "
            "the VOC folder.",
            show_default=False,
        ),
    ] = None,
    max_pictures: Annotated[int, typer.Option(min=0, help="Pictures of the worst images; 0 for none.")] = 24,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Also write the numbers to this file; '-' prints them and writes no report.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page. Default: the path.", show_default=False)
    ] = None,
    voc_root: Annotated[
        Path | None,
        typer.Option(help="Folder that holds VOC2007/; not for tests of sosr-det.", show_default=False),
    ] = None,
    year: Annotated[str, typer.Option(help="Of the annotations: VOC<year>.")] = "2007",
    split: Annotated[str, typer.Option(help="Image set: ImageSets/Main/<split>.txt.")] = "test",
    classes: Annotated[
        str | None, typer.Option(help="Classes with commas, as in eval-voc.", show_default=False)
    ] = None,
    box_format: Annotated[
        BoxFormatName | None,
        typer.Option(help="Of COCO results and MMDetection's pickles, as in eval-voc.", show_default=False),
    ] = None,
    coco_annotations: Annotated[
        Path | None,
        typer.Option(help="Annotation file of COCO results, as in eval-voc.", show_default=False),
    ] = None,
) -> None:
    """Why a detector's AP is what it is: kinds of error and their cost, sizes, the worst images, on one page.

    Writes report/ with index.html, errors.json, figures and pictures of detections against ground truth.
    """
    from sosr_det.cli.eval_voc import _check_writable, _class_names
    from sosr_det.evaluation.errors import analyze_errors
    from sosr_det.evaluation.formats.reading import Reading, read_detection_files

    if images is not None and not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder; expected one with image files or JPEGImages/")
    to_stdout = str(json_out) == "-"
    if json_out is not None and not to_stdout:
        _check_writable(json_out)
    how = Reading(
        voc_root=voc_root,
        year=year.upper().removeprefix("VOC"),
        split=split,
        class_names=_class_names(classes),
        box_format=None if box_format is None else box_format.value,
        coco_annotations=coco_annotations,
    )
    read = read_detection_files(detections, how)
    try:
        analysis = analyze_errors(read.data, max_worst_images=max(max_pictures, 24))
    except ValueError as error:  # what the files hold and no reader has refused
        raise DataError(f"{detections}: {error}") from error
    if to_stdout:
        typer.echo(json.dumps(analysis.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
        return

    from sosr_det.analysis.detection_report import write_analysis
    from sosr_det.evaluation.ap_document import write_document

    own = _is_own(read)
    folder = out or (detections if detections.is_dir() else detections.parent)
    page = write_analysis(
        analysis,
        folder,
        images_root=images or (None if own else Path(read.inputs["ground_truth"]["path"])),
        max_pictures=max_pictures,
        title=title or f"Error analysis of {detections}",
        first_pixel=0 if own else 1,  # readers of other formats give boxes as VOC's files have them
    )
    if json_out is not None:
        write_document(json_out, analysis.to_dict())
    for line in (*read.notes, *_summary(analysis)):
        typer.echo(line)
    typer.echo(f"report: {page}")


def _is_own(read: DetectionFiles) -> bool:
    from sosr_det.evaluation.formats.recognise import DetectionFormat

    return read.inputs["detections"]["format"] == str(DetectionFormat.SAVED)


def _summary(analysis: ErrorAnalysis) -> list[str]:
    from sosr_det.analysis.detection_report.text import KIND_MEANING, percent
    from sosr_det.cli.registry.columns import table
    from sosr_det.evaluation.errors.analysis import mean_gain
    from sosr_det.evaluation.errors.outcomes import KINDS

    rows = [
        [
            kind,
            percent(mean_gain(analysis.gains_area.gain[kind])),
            str(analysis.counts[kind].sum()),
            str(analysis.confident_counts[kind].sum()),
            KIND_MEANING[kind],
        ]
        for kind in KINDS
    ]
    titles = ["error", "mAP cost", "all", "confident", "what it is"]
    return [
        f"mAP {percent(analysis.voc.map_area)} (area), {percent(analysis.voc.map_11point)} (11-point), percent; cost: "
        "mAP (area) gained if that kind alone were fixed;",
        "confident: from the score on at which F1 of the class is highest",
        *table(titles, rows, right=titles[1:4]),
    ]
