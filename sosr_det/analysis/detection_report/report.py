"""Writing the report's folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from sosr_det.analysis.detection_report.page import Pictures, render
from sosr_det.analysis.detection_report.plots import draw_plots
from sosr_det.analysis.detection_report.replaced_folder import replaced_folder, require_replaceable
from sosr_det.analysis.detection_report.text import plural
from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import EvaluationSet
from sosr_det.evaluation.errors import ErrorAnalysis, analyze_errors

FOLDER, PAGE, NUMBERS = "report", "index.html", "errors.json"
_WORST_LISTED = 24  # images described in words, whatever number of pictures is asked for
_MOST_NOTES = 5
_logger = logging.getLogger(__name__)


def write_report(
    detections: EvaluationSet,
    folder: Path,
    *,
    images_root: Path | None = None,
    max_pictures: int = 24,
    title: str = "Error analysis of detections",
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

    Returns:
        The page.

    Raises:
        ConfigError: ``folder/report`` exists and is not a report.
        ValueError: negative ``max_pictures``, or data that :func:`~sosr_det.evaluation.errors.analyze_errors` refuses.
    """
    if max_pictures < 0:
        raise ValueError(f"max_pictures must be at least 0, got {max_pictures}")
    target = Path(folder) / FOLDER
    require_replaceable(target, NUMBERS)  # before the work
    analysis = analyze_errors(detections, max_worst_images=max(max_pictures, _WORST_LISTED))
    with replaced_folder(target, NUMBERS) as fresh:
        (fresh / NUMBERS).write_text(dump_numbers(analysis.to_dict()), encoding="utf-8")
        plots = draw_plots(analysis, fresh)
        pictures = _draw_pictures(analysis, fresh, images_root, max_pictures)
        (fresh / PAGE).write_text(render(analysis, title, plots, pictures), encoding="utf-8")
    return target / PAGE


def dump_numbers(document: dict[str, Any]) -> str:
    """The analysis as JSON text."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _draw_pictures(
    analysis: ErrorAnalysis, folder: Path, images_root: Path | None, max_pictures: int
) -> Pictures:
    files: list[str | None] = [None] * len(analysis.worst)
    wanted = min(max_pictures, len(analysis.worst))
    if not wanted:
        return Pictures(files)
    data = analysis.data
    if data.image_paths is None and images_root is None:
        note = "No pictures: the detections do not say where the images are. Name their folder with --images."
        return Pictures(files, [note])
    reasons = []
    (folder / "worst").mkdir()
    for i in range(wanted):
        name = f"worst/{i + 1:02d}.jpg"
        try:
            _draw_one(analysis, i, images_root, folder / name)
        except (DataError, OSError) as error:
            reasons.append(str(error))
        except Exception as error:
            # A test must not end because of a picture, but this is a mistake of ours and is reported as one.
            _logger.exception("drawing image %r failed", data.image_ids[analysis.worst[i].image])
            reasons.append(
                f"drawing {data.image_ids[analysis.worst[i].image]!r} failed unexpectedly, please report it: "
                f"{type(error).__name__}: {error}"
            )
        else:
            files[i] = name
    if len(reasons) == wanted:
        (folder / "worst").rmdir()
    notes = reasons[:_MOST_NOTES]
    if len(reasons) > _MOST_NOTES:
        notes.append(f"and {plural(len(reasons) - _MOST_NOTES, 'more picture')} could not be drawn.")
    if reasons:
        notes.insert(0, f"{len(reasons)} of {plural(wanted, 'picture')} could not be drawn:")
        _logger.warning("%s %s", notes[0], reasons[0])
    return Pictures(files, notes)


def _draw_one(analysis: ErrorAnalysis, i: int, images_root: Path | None, path: Path) -> None:
    from sosr_det.analysis.detection_report.image_files import image_file, read_image
    from sosr_det.analysis.detection_report.pictures import draw_picture, picture_title

    errors, data = analysis.worst[i], analysis.data
    size = None if data.image_sizes is None else data.image_sizes[errors.image]
    pixels = read_image(image_file(data, errors.image, images_root), size)
    heading = picture_title(i + 1, data.image_ids[errors.image], analysis.outcomes, errors)
    draw_picture(pixels, analysis.outcomes, errors, heading).save(path, quality=88)
