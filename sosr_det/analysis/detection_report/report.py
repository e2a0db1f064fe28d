"""Writing the report's folder."""

from __future__ import annotations

import json
from pathlib import Path

from sosr_det.analysis.detection_report.page import render
from sosr_det.analysis.detection_report.plots import draw_plots
from sosr_det.analysis.detection_report.replaced_folder import replaced_folder, require_writable
from sosr_det.analysis.detection_report.worst import draw_worst
from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.errors import ErrorAnalysis, analyze_errors

FOLDER, PAGE, NUMBERS = "report", "index.html", "errors.json"
WORST_LISTED = 24  # images described in words, whatever number of pictures is asked for


def write_report(
    detections: EvaluationSet,
    folder: Path,
    *,
    images_root: Path | None = None,
    max_pictures: int = 24,
    title: str = "Error analysis of detections",
    first_pixel: int = 0,
) -> Path:
    """Analyse the errors of a test and write ``folder/report/``; an earlier report there is replaced as a whole.

    It holds ``index.html`` (the page, which needs nothing from elsewhere), ``errors.json`` (all numbers, fractions at
    full precision), ``errors.png``, ``precision_recall.png`` and ``by_size.png``, and ``worst/*.jpg``, pictures of the
    images with the most errors. A picture that cannot be made is left out, and the page says why.

    Args:
        detections: Ground truth and detections of the test.
        folder: Where the report's folder goes; made if absent.
        images_root: Where the images are, if not at ``detections.image_paths``: a folder of image files, or a VOC
            folder with ``JPEGImages``.
        max_pictures: Pictures at most, worst image first; 0 for none.
        title: Heading of the page.
        first_pixel: Coordinate of an image's first pixel: 0, as a test's boxes have it, or 1, as VOC's files do. Only
            the pictures depend on it.

    Returns:
        The page.

    Raises:
        ConfigError: ``folder/report`` exists and is not a report, or nothing can be written there.
        ValueError: negative ``max_pictures``, or data that :func:`~sosr_det.evaluation.errors.analyze_errors` refuses.
    """
    target = _checked_target(folder, max_pictures)  # before the work
    analysis = analyze_errors(detections, max_worst_images=max(max_pictures, WORST_LISTED))
    return _write(analysis, target, images_root, max_pictures, title, first_pixel)


def write_analysis(
    analysis: ErrorAnalysis,
    folder: Path,
    *,
    images_root: Path | None = None,
    max_pictures: int = 24,
    title: str = "Error analysis of detections",
    first_pixel: int = 0,
) -> Path:
    """:func:`write_report` of an analysis that is there already; pictures are of its ``worst`` images."""
    target = _checked_target(folder, max_pictures)
    return _write(analysis, target, images_root, max_pictures, title, first_pixel)


def _checked_target(folder: Path, max_pictures: int) -> Path:
    if max_pictures < 0:
        raise ValueError(f"max_pictures must be at least 0, got {max_pictures}")
    target = Path(folder) / FOLDER
    require_writable(target, NUMBERS)
    return target


def _write(
    analysis: ErrorAnalysis,
    target: Path,
    images_root: Path | None,
    max_pictures: int,
    title: str,
    first_pixel: int,
) -> Path:
    with replaced_folder(target, NUMBERS) as fresh:
        numbers = json.dumps(analysis.to_dict(), indent=1, allow_nan=False)
        (fresh / NUMBERS).write_text(numbers + "\n", encoding="utf-8")
        plots = draw_plots(analysis, fresh)
        pictures = draw_worst(analysis, fresh, images_root, max_pictures, first_pixel)
        (fresh / PAGE).write_text(render(analysis, title, plots, pictures), encoding="utf-8")
    return target / PAGE
