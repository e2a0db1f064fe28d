"""One image with its detections against its ground truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sosr_det.analysis.detection_report.labels import LabelPlacer, Rectangle
from sosr_det.analysis.detection_report.text import plural, tame
from sosr_det.evaluation.errors.outcomes import FALSE_POSITIVE_KINDS, Outcomes
from sosr_det.evaluation.errors.worst_images import ImageErrors

# Longest side of a picture in pixels: small images are enlarged until labels fit, large ones reduced.
_SMALLEST, _LARGEST = 800, 1280
_MOST_ENLARGED = 8.0
_FONT_SIZE = 14
_MARGIN = 6
_NARROWEST = 560  # of the whole picture: a tall, narrow image still has room for title and legend
_SURE_LABELS = 50  # false positives labelled whatever it covers; of more, no label could be read
_BEYOND = 8  # how far a line goes outside the picture, in its pixels
_BACKDROP = (24, 24, 27)

FOUND, WRONG, MISSED, IGNORED = (46, 204, 92), (255, 77, 77), (255, 214, 10), (176, 176, 184)


@dataclass(frozen=True)
class _Mark:
    box: Rectangle  # pixels of the canvas
    colour: tuple[int, int, int]
    label: str
    required: bool = True  # a label that may not be left out
    width: int = 3
    dash: int = 0  # length of a dash in pixels; 0 for a solid line


def draw_picture(
    image: np.ndarray, outcomes: Outcomes, errors: ImageErrors, title: str, first_pixel: int = 0
) -> Image.Image:
    """Draw the confident detections and the objects of one image.

    Found objects are green (the detection a solid line, the object a thin dashed one), false positives red with their
    kind, objects not found dashed yellow, difficult objects and detections of them grey. A legend below says so.

    Args:
        image: RGB, uint8 [height, width, 3].
        outcomes: What became of every detection.
        errors: The image's share of it.
        title: For the line above the picture.
        first_pixel: Coordinate of the image's first pixel in the boxes, 0 or 1.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = min(_SMALLEST / longest, _MOST_ENLARGED) if longest < _SMALLEST else min(_LARGEST / longest, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    resized = Image.fromarray(image).resize(
        size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    )

    # Drawn on the image itself, so that what reaches beyond it is cut off.
    font, bold = _font("DejaVuSans.ttf"), _font("DejaVuSans-Bold.ttf")
    marks = [_scaled(mark, first_pixel, scale, size) for mark in _marks(outcomes, errors)]
    draw = ImageDraw.Draw(resized)
    for mark in reversed(marks):  # what matters most on top
        _outline(draw, mark)
    unlabelled = _draw_labels(draw, marks, font, size)

    line = _FONT_SIZE + _MARGIN
    canvas_width = max(size[0], _NARROWEST)
    header = _wrapped(bold, title, canvas_width - 2 * _MARGIN)
    legend = _legend(errors, unlabelled)
    top = line * len(header) + _MARGIN
    canvas = Image.new("RGB", (canvas_width, top + size[1] + line * len(legend) + 2 * _MARGIN), _BACKDROP)
    canvas.paste(resized, ((canvas_width - size[0]) // 2, top))
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(header):
        draw.text((_MARGIN, _MARGIN // 2 + row * line), text, font=bold, fill="white")
    y = top + size[1] + _MARGIN
    for row, (colour, dash, text) in enumerate(legend):
        middle = y + row * line + _FONT_SIZE // 2 + 1
        _line(draw, (_MARGIN, middle), (_MARGIN + 30, middle), colour, 3, dash)
        draw.text((_MARGIN + 40, y + row * line), text, font=font, fill="white")
    return canvas


def picture_title(rank: int, image_id: str, outcomes: Outcomes, errors: ImageErrors) -> str:
    kinds = Counter(FALSE_POSITIVE_KINDS[outcomes.outcome[i]] for i in errors.false_positives)
    parts = [f"{kinds[kind]} {kind}" for kind in FALSE_POSITIVE_KINDS if kinds[kind]]
    if errors.missed:
        parts.append(f"{len(errors.missed)} not found")
    return f"{rank}. {tame(image_id, 60)}: {plural(errors.num_errors, 'error')} ({', '.join(parts)})"


def _legend(errors: ImageErrors, unlabelled: int) -> list[tuple[tuple[int, int, int], int, str]]:
    entries = [(FOUND, 0, f"found: {len(errors.true_positives)} (thin dashes: the object)")]
    if errors.false_positives:
        entries.append((WRONG, 0, f"false positive: {len(errors.false_positives)}"))
    if errors.missed:
        entries.append((MISSED, 8, f"not found: {len(errors.missed)}"))
    if errors.difficult or errors.ignored:
        entries.append((IGNORED, 4, f"difficult, counts neither way: {len(errors.difficult)}"))
    if unlabelled:
        entries.append((_BACKDROP, 0, f"{plural(unlabelled, 'label')} left out for want of room"))
    return entries


def _marks(outcomes: Outcomes, errors: ImageErrors) -> list[_Mark]:
    """Everything to draw, in pixels of the image, the most important first."""
    names = [tame(name, 24) for name in outcomes.class_names]

    def seen(i: int) -> str:
        return f"{names[outcomes.label[i]]} {outcomes.score[i]:.3g}"

    marks = []
    for rank, i in enumerate(errors.false_positives):
        kind = FALSE_POSITIVE_KINDS[outcomes.outcome[i]]
        about = outcomes.target[i]
        detail = f", is {names[outcomes.gt_label[about]]}" if kind == "classification" else ""
        marks.append(_Mark(tuple(outcomes.box[i]), WRONG, f"{seen(i)} {kind}{detail}", rank < _SURE_LABELS))
    marks += [
        _Mark(tuple(outcomes.gt_box[g]), MISSED, f"not found: {names[outcomes.gt_label[g]]}", dash=8)
        for g in errors.missed
    ]
    marks += [
        _Mark(tuple(outcomes.box[i]), FOUND, seen(i), required=False, width=2) for i in errors.true_positives
    ]
    marks += [
        _Mark(tuple(outcomes.box[i]), IGNORED, seen(i), required=False, width=2) for i in errors.ignored
    ]
    marks += [
        _Mark(tuple(outcomes.gt_box[g]), IGNORED, f"difficult: {names[outcomes.gt_label[g]]}", False, 2, 4)
        for g in errors.difficult
    ]
    marks += [
        _Mark(tuple(outcomes.gt_box[outcomes.target[i]]), FOUND, "", required=False, width=1, dash=5)
        for i in errors.true_positives
    ]
    return marks


def _scaled(mark: _Mark, first_pixel: int, scale: float, size: tuple[int, int]) -> _Mark:
    """From pixels of the image, of which a box covers the last one as well, to the picture and a little beyond it."""
    x1, y1, x2, y2 = (c - first_pixel for c in mark.box)
    corners = (x1 * scale, y1 * scale, (x2 + 1) * scale - 1, (y2 + 1) * scale - 1)
    box = tuple(min(max(c, -_BEYOND), side + _BEYOND) for c, side in zip(corners, size * 2, strict=True))
    return replace(mark, box=box)


def _draw_labels(
    draw: ImageDraw.ImageDraw, marks: list[_Mark], font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> int:
    """Draw what fits; returns how many labels were left out."""
    placer = LabelPlacer(*size)
    height = _FONT_SIZE + 4
    left_out = 0
    for mark in (mark for mark in marks if mark.label):
        # The part of the box that can be seen, so that the label of one that reaches beyond the image stays in it.
        seen = tuple(min(max(c, 0), side) for c, side in zip(mark.box, size * 2, strict=True))
        width = draw.textlength(mark.label, font=font) + 6
        placed = placer.place(seen, width, height, required=mark.required)
        if placed is None:
            left_out += 1
            continue
        x1, y1, x2, y2 = placed.area
        if placed.away:
            corner = (min(max(x1, seen[0]), seen[2]), min(max(y1, seen[1]), seen[3]))
            draw.line([(min(max(corner[0], x1), x2), min(max(corner[1], y1), y2)), corner], mark.colour, 1)
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=mark.colour)
        draw.text((x1 + 3, y1 + 1), mark.label, font=font, fill="black")
    return left_out


def _outline(draw: ImageDraw.ImageDraw, mark: _Mark) -> None:
    x1, y1, x2, y2 = mark.box
    x2, y2 = max(x1, x2), max(y1, y2)
    if not mark.dash:
        draw.rectangle((x1, y1, x2, y2), outline=mark.colour, width=mark.width)
        return
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        _line(draw, start, end, mark.colour, mark.width, mark.dash)


def _line(draw: ImageDraw.ImageDraw, start, end, colour, width: int, dash: int) -> None:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    if not dash or length < 2 * dash:
        draw.line([start, end], fill=colour, width=width)
        return
    # Whole dashes from corner to corner.
    steps = 2 * int(length / (2 * dash)) + 1
    for i in range(0, steps, 2):
        a, b = i / steps, (i + 1) / steps
        draw.line(
            [
                (start[0] + (end[0] - start[0]) * a, start[1] + (end[1] - start[1]) * a),
                (start[0] + (end[0] - start[0]) * b, start[1] + (end[1] - start[1]) * b),
            ],
            fill=colour,
            width=width,
        )


def _wrapped(font: ImageFont.FreeTypeFont, text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font(name: str) -> ImageFont.FreeTypeFont:
    """A font that is on every machine that has matplotlib."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), _FONT_SIZE)
