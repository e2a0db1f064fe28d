"""The fifteen operations of Fast AutoAugment, on uint8 tensors ``[..., 3, H, W]`` and on PIL images in RGB.

They run through torchvision's v2 functions, with nearest-neighbour sampling and black outside the image, as the
published code does with PIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torchvision.transforms.v2 import functional as F

# The published code's fill for cut-out squares, on every data set
# (https://github.com/kakaobrain/fast-autoaugment, CutoutAbs in FastAutoAugment/augmentations.py). The code does not say
# what it is; it equals CIFAR-10's mean colour, (125.3, 123.0, 113.9), in whole grey levels.
CUTOUT_RGB = (125, 123, 114)


class Operation(NamedTuple):
    """One operation, and what the levels 0 and 1 mean for it."""

    value_at_level_0: float
    value_at_level_1: float
    random_sign: bool  # geometric: the published code turns the direction with probability 1/2
    apply: Callable[[Any, Any], Any]

    def value(self, level: float) -> float:
        """The operation's own unit for a level in 0..1."""
        return level * (self.value_at_level_1 - self.value_at_level_0) + self.value_at_level_0


class Rectangle(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` in pixels, the last ones exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def cutout_rectangle(
    part: float, height: int, width: int, centre_x: float, centre_y: float
) -> Rectangle | None:
    """What the published Cutout covers: a square of ``part`` of the width around a centre, in pixels.

    The border clips it. Its last row and column are part of it, so it is up to a pixel larger than asked for, as PIL
    draws it. None for ``part`` 0.
    """
    if part <= 0:
        return None
    side = part * width
    left, top = int(max(0.0, centre_x - side / 2)), int(max(0.0, centre_y - side / 2))
    right, bottom = min(width, left + side), min(height, top + side)
    return Rectangle(top, left, min(int(bottom) + 1, height), min(int(right) + 1, width))


def _cutout(image: Any, rectangle: Rectangle | None) -> Any:
    if rectangle is None:
        return image
    top, left, bottom, right = rectangle
    colour = torch.tensor(CUTOUT_RGB, dtype=torch.uint8).view(3, 1, 1)
    return F.erase(image, top, left, bottom - top, right - left, colour)


def _affine(image: Any, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Any:
    degrees = [math.degrees(math.atan(slope)) for slope in shear]
    return F.affine(
        image, angle=0.0, translate=list(translate), scale=1.0, shear=degrees, center=[0.0, 0.0]
    )  # fmt: skip


def _solarize(image: Any, threshold: float) -> Any:
    # torchvision refuses thresholds that no pixel can reach.
    return image if threshold > 255 else F.solarize(image, threshold)


OPERATIONS: dict[str, Operation] = {
    # shear: pixels per pixel
    "ShearX": Operation(-0.3, 0.3, True, lambda image, slope: _affine(image, shear=(slope, 0))),
    "ShearY": Operation(-0.3, 0.3, True, lambda image, slope: _affine(image, shear=(0, slope))),
    # translation: part of the width or height; the image moves against the sign
    "TranslateX": Operation(
        -0.45, 0.45, True, lambda image, part: _affine(image, translate=(-part * F.get_size(image)[1], 0))
    ),
    "TranslateY": Operation(
        -0.45, 0.45, True, lambda image, part: _affine(image, translate=(0, -part * F.get_size(image)[0]))
    ),
    # degrees, counter-clockwise
    "Rotate": Operation(-30, 30, True, lambda image, degrees: F.rotate(image, degrees)),
    "AutoContrast": Operation(0, 1, False, lambda image, _: F.autocontrast(image)),
    "Invert": Operation(0, 1, False, lambda image, _: F.invert(image)),
    "Equalize": Operation(0, 1, False, lambda image, _: F.equalize(image)),
    # grey levels from here on are inverted; bits that stay
    "Solarize": Operation(0, 256, False, _solarize),
    "Posterize": Operation(4, 8, False, lambda image, bits: F.posterize(image, int(bits))),
    # enhancement factors: 1 changes nothing
    "Contrast": Operation(0.1, 1.9, False, lambda image, factor: F.adjust_contrast(image, factor)),
    "Color": Operation(0.1, 1.9, False, lambda image, factor: F.adjust_saturation(image, factor)),
    "Brightness": Operation(0.1, 1.9, False, lambda image, factor: F.adjust_brightness(image, factor)),
    "Sharpness": Operation(0.1, 1.9, False, lambda image, factor: F.adjust_sharpness(image, factor)),
    # part of the width; the drawn place is in the rectangle
    "Cutout": Operation(0, 0.2, False, _cutout),
}
