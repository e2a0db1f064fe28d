"""Pictures of the worst images: whatever happens to one of them, the report is written."""

from __future__ import annotations

import logging
from pathlib import Path

from sosr_det.analysis.detection_report.image_files import image_file, read_image
from sosr_det.analysis.detection_report.page import Pictures
from sosr_det.analysis.detection_report.pictures import draw_picture, picture_title
from sosr_det.analysis.detection_report.text import plural
from sosr_det.errors import DataError
from sosr_det.evaluation.errors import ErrorAnalysis

_MOST_NOTES = 5
_logger = logging.getLogger(__name__)


def draw_worst(
    analysis: ErrorAnalysis, folder: Path, images_root: Path | None, max_pictures: int, first_pixel: int
) -> Pictures:
    """Write ``worst/01.jpg`` and so on into ``folder``; what cannot be drawn is left out with a sentence."""
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
            _draw_one(analysis, i, images_root, folder / name, first_pixel)
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


def _draw_one(
    analysis: ErrorAnalysis, i: int, images_root: Path | None, path: Path, first_pixel: int
) -> None:
    errors, data = analysis.worst[i], analysis.data
    size = None if data.image_sizes is None else data.image_sizes[errors.image]
    pixels = read_image(image_file(data, errors.image, images_root), size)
    heading = picture_title(i + 1, data.image_ids[errors.image], analysis.outcomes, errors)
    draw_picture(pixels, analysis.outcomes, errors, heading, first_pixel).save(path, quality=88)
