"""``sosr-det analyze-errors``: why a detector's average precision is what it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.cli import detection_options as options
from sosr_det.cli.json_target import check_json_target
from sosr_det.errors import ConfigError, DataError
from sosr_det.registry.plain_text import clean

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
    voc_root: options.VocRoot = None,
    year: options.Year = "2007",
    split: options.Split = "test",
    classes: options.Classes = None,
    file_name: options.FileName = None,
    missing_class: options.Missing = options.MissingClass.ERROR,
    box_format: options.BoxFormat = None,
    first_category_id: options.FirstCategoryId = None,
    coco_annotations: options.CocoAnnotations = None,
) -> None:
    """Why a detector's AP is what it is: kinds of error and their cost, sizes, the worst images, on one page.

    Writes report/ with index.html, errors.json, figures and pictures of detections against ground truth.
    """
    from sosr_det.analysis.detection_report.replaced_folder import require_replaceable, try_writing

    if images is not None and not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder; expected one with image files or JPEGImages/")
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
    to_stdout = str(json_out) == "-"
    folder = out or (detections if detections.is_dir() else detections.parent)
    if to_stdout:
        for option, value in (("--out", out), ("--title", title), ("--images", images)):
            if value is not None:
                raise ConfigError(
                    f"{option} has no effect with --json -, which writes no report; leave one out"
                )
    else:
        if json_out is not None:
            check_json_target(json_out, detections, how)
        if out is not None or detections.exists():  # else the reader says what is missing
            require_replaceable(folder / "report", "errors.json")
            with _named(folder):
                try_writing(folder / "report")

    from sosr_det.evaluation.ap_document import json_text, write_document
    from sosr_det.evaluation.ap_report import absent_classes
    from sosr_det.evaluation.errors import analyze_errors
    from sosr_det.evaluation.formats.reading import read_detection_files

    read = read_detection_files(detections, how)
    try:
        analysis = analyze_errors(read.data, max_worst_images=max(max_pictures, 24))
    except ValueError as error:  # what the files hold and no reader has refused
        raise DataError(f"{detections}: {error}") from error
    if to_stdout:
        typer.echo(json_text(analysis.to_dict()))
        return

    from sosr_det.analysis.detection_report import write_analysis

    own = _is_own(read)
    with _named(folder):
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
    notes = [f"note: {note}" for note in (*read.notes, *absent_classes(analysis.voc))]
    for line in (*_summary(analysis), *notes, f"report: {page}"):
        typer.echo(clean(line))  # class names and paths are others' texts


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """A place that cannot be written is the option's mistake, not an unexpected one."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out {folder}: the report cannot be written: {error.strerror or error}. Choose another folder, or free "
            "space there"
        ) from error


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
