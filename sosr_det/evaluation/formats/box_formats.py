"""How other programs write VOC's boxes, and the way back to VOC's own: pixels, 1-based, both ends included.

VOC's box ``xmin=48, xmax=195`` covers the 148 pixels 48, 49, ..., 195, counted from 1. Four ways of writing it as
``x, w`` (COCO) or ``x1, x2`` (MMDetection) are in use:

====================  =====  =====  ======  =============================================================
name                  ``x``  ``w``  ``x2``  who writes it
====================  =====  =====  ======  =============================================================
``edges``             47     148    195     COCO's own definition (edges of pixels, from 0): the
                                            COCO-style files of VOC that are in circulation
                                            (``pascal_test2007.json``), Detectron2
``zero-based``        47     147    194     MMDetection: its VOC data sets and ``pascal_voc.py``, and so
                                            detectors trained on them (first and last pixel, from 0)
``one-based``         48     147    195     VOC's own numbers, ``w = xmax - xmin``
``one-based-pixels``  48     148    196     VOC's ``xmin``, and ``w`` counted in pixels
====================  =====  =====  ======  =============================================================

Nothing in a file of detections tells them apart: boxes of a wrong kind are off by one pixel, which costs little AP at
IoU 0.5 and more at higher thresholds or with small objects.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

BoxFormat = Literal["edges", "zero-based", "one-based", "one-based-pixels"]
BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)

# What is added to x1 and y1, and to x2 = x1 + w and y2 = y1 + h.
_SHIFTS: dict[BoxFormat, tuple[int, int]] = {
    "edges": (1, 0),
    "zero-based": (1, 1),
    "one-based": (0, 0),
    "one-based-pixels": (0, -1),
}


def to_voc(corners: np.ndarray, box_format: BoxFormat) -> np.ndarray:
    """``x1, y1, x2, y2`` (float [N, 4], in place) of a format as VOC's ``xmin, ymin, xmax, ymax``."""
    first, last = _SHIFTS[box_format]
    corners[:, :2] += first
    corners[:, 2:] += last
    return corners


def corners_of(xywh: np.ndarray) -> np.ndarray:
    """``x, y, w, h`` as ``x, y, x + w, y + h``; float64 [N, 4], new."""
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
