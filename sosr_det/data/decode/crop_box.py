"""The crop of Inception-style training, drawn from the image's size alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

_TRIES = 10


class CropBox(NamedTuple):
    """A box in pixels: rows ``[top, top + height)`` and columns ``[left, left + width)``."""

    top: int
    left: int
    height: int
    width: int


def draw_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    uniform: Callable[[int], list[float]],
) -> CropBox:
    """A box of random area, aspect ratio and place, of the distribution of torchvision's ``RandomResizedCrop``.

    Area uniform in ``scale`` of the image's, aspect (width / height) log-uniform in ``ratio``; ten tries to fit such a
    box into the image, then the largest central box with an aspect inside ``ratio``.

    Args:
        height, width: of the image, at least 1.
        scale: lower and upper bound of the area as a part of the image's.
        ratio: lower and upper bound of the aspect.
        uniform: ``uniform(n)`` gives n numbers in [0, 1).

    Source: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842; torchvision.transforms.RandomResizedCrop.get_params.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        for_area, for_aspect, for_top, for_left = uniform(4)
        area = height * width * (scale[0] + (scale[1] - scale[0]) * for_area)
        aspect = math.exp(low + (high - low) * for_aspect)
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(for_top * (height - box_height + 1))
            left = int(for_left * (width - box_width + 1))
            return CropBox(top, left, box_height, box_width)
    box_height, box_width = height, width
    if width < height * ratio[0]:
        box_height = round(width / ratio[0])
    elif width > height * ratio[1]:
        box_width = round(height * ratio[1])
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
