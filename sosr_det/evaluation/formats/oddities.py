"""What is allowed in detections and still worth a word: it is seldom meant, and shows in the AP alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sosr_det.evaluation.boxes import Detections, EvaluationSet
from sosr_det.evaluation.formats.text import listed


def oddities(data: EvaluationSet) -> list[str]:
    """One sentence for each kind of oddity."""
    return [
        *_nothing_detected(data),
        *_few_images(data),
        *_odd_boxes(data.detections),
        *_repeated(data.detections),
    ]


def _nothing_detected(data: EvaluationSet) -> list[str]:
    empty = [name for name in data.class_names if not len(data.detections[name])]
    counts = {name: int((~data.ground_truth[name].difficult).sum()) for name in empty}
    missed = [f"{name} ({count} objects)" for name, count in counts.items() if count]
    return [f"nothing was detected of {listed(missed, 20)}: AP 0"] if missed else []


def _few_images(data: EvaluationSet) -> list[str]:
    seen = np.zeros(data.num_images, bool)
    for found in data.detections.values():
        seen[found.image_index] = True
    without = int((~seen).sum())
    if 2 * without <= data.num_images:
        return []
    return [f"{without} of {data.num_images} images have no detection at all"]


def _odd_boxes(detections: Mapping[str, Detections]) -> list[str]:
    total = nothing = 0
    greatest = -np.inf
    for found in detections.values():
        boxes = found.boxes
        total += len(boxes)
        nothing += int(((boxes[:, 2] <= boxes[:, 0] - 1) | (boxes[:, 3] <= boxes[:, 1] - 1)).sum())
        greatest = max(greatest, boxes.max(initial=-np.inf))
    notes = []
    if nothing:
        notes.append(
            f"{nothing} of {total} detections cover no pixel (x2 <= x1 - 1 or y2 <= y1 - 1): they find nothing. "
            "Are the boxes x, y, width, height?"
        )
    if total and greatest <= 2:
        notes.append(
            f"no coordinate is greater than {greatest:g}: boxes must be in pixels, not parts of the image"
        )
    return notes


def _repeated(detections: Mapping[str, Detections]) -> list[str]:
    counts = {name: num_repeated(found) for name, found in detections.items()}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return []
    return [
        f"{sum(counts.values())} detections repeat the box of another one of the same class in the same image "
        f"({listed((f'{name}: {count}' for name, count in counts.items()), 5)}); a repeated box is a false positive"
    ]


def num_repeated(found: Detections) -> int:
    """How many detections have the image and box of an earlier one."""
    rows = np.column_stack([found.image_index.astype(np.float64), found.boxes]) + 0.0  # -0.0 is 0.0
    # Sorting one number a row is many times faster than sorting rows; equal numbers are few and compared in full.
    bits = rows.view(np.uint64)
    factors = np.array(
        [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD],
        np.uint64,
    )
    mixed = (bits ^ (bits >> np.uint64(29))) * factors
    _, inverse, counts = np.unique(
        mixed.sum(axis=1, dtype=np.uint64), return_inverse=True, return_counts=True
    )
    suspects = rows[counts[inverse] > 1]
    return len(suspects) - len(np.unique(suspects, axis=0)) if len(suspects) else 0
