"""First steps of a pipeline: from an image file's bytes to a uint8 RGB tensor of the wanted size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor

from sosr_det.data.arguments import require_probability
from sosr_det.data.decode.crop_box import CropBox, draw_crop_box
from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.decode.resample import crop_and_resize
from sosr_det.data.decode.rows import REDUCTIONS, ImageSource
from sosr_det.errors import ConfigError


class _DecodingTransform:
    """Takes the file itself, see :func:`sosr_det.data.decode.encoded.takes_encoded`."""

    takes_encoded = True

    def __call__(self, encoded: EncodedImage) -> Tensor:
        if not isinstance(encoded, EncodedImage):
            raise ConfigError(
                f"{type(self).__name__} decodes image files and got {type(encoded).__name__}: put it first in the "
                "pipeline of a data set that reads files, or use torchvision's transform of that kind."
            )
        return self.decode(ImageSource(encoded))

    def decode(self, source: ImageSource) -> Tensor:
        """uint8 ``[3, H, W]`` in RGB."""
        raise NotImplementedError


@TRANSFORMS.register_module()
class DecodeRandomResizedCrop(_DecodingTransform):
    """Decodes only what a random crop needs, and resizes and perhaps flips it: ImageNet's usual training view.

    The same distribution as ``torchvision/RandomResizedCrop`` with ``antialias=True`` and
    ``torchvision/RandomHorizontalFlip`` after it, and for the same box the same pixels, bit for bit (unless the image
    is reduced, see below). The box is drawn first, from the size in the file's header. Rows below it are not decoded.

    Random numbers are torch's (CPU), one call for most images.

    Args:
        size: side of the square in pixels, or ``(height, width)``.
        scale: bounds of the crop's area as a part of the image's, ``0 < low <= high <= 1``.
        ratio: bounds of the crop's aspect, width / height, ``0 < low <= high``.
        flip_prob: probability of a horizontal flip, 0 (never) to 1 (always).
        reducing_gap: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where the crop stays at least this many times
            as wide and high as ``size``; the higher, the closer to full decoding. At least 1; None to decode always in
            full. The crop's borders are then rounded to the reduced image's pixels.

    Raises:
        ConfigError: an argument out of its range, an input that is not an image file.
        DataError: while images are read, one that cannot be decoded (named).
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.0,
        reducing_gap: float | None = 3.0,
    ) -> None:
        owner = type(self).__name__
        self.size = height_and_width(size, owner)
        self.scale = _bounds(scale, "scale", 1.0, owner)
        self.ratio = _bounds(ratio, "ratio", math.inf, owner)
        self.flip_prob = require_probability(flip_prob, owner)
        if reducing_gap is not None and not (_is_number(reducing_gap) and reducing_gap >= 1):
            raise ConfigError(
                f"{owner}: reducing_gap must be None or a number of at least 1, got {reducing_gap!r}"
            )
        self.reducing_gap = reducing_gap

    def decode(self, source: ImageSource) -> Tensor:
        """One random view, uint8 ``[3, *size]`` in RGB."""
        box, flip = self.draw(source)
        return self.view(source, box, flip=flip)

    def draw(self, source: ImageSource) -> tuple[CropBox, bool]:
        """The box of a random view, and whether it is flipped."""
        numbers = _uniform(5)  # a flip, and what most boxes take
        flip = numbers.pop() < self.flip_prob
        first = iter([numbers])
        box = draw_crop_box(
            source.height,
            source.width,
            self.scale,
            self.ratio,
            lambda count: next(first, None) or _uniform(count),
        )
        return box, flip

    def view(self, source: ImageSource, box: CropBox, *, flip: bool) -> Tensor:
        """The view of one box, as training sees it."""
        reduction = self._reduction(source, box)
        pixels = source.pixels(box.top + box.height, reduction)
        if reduction > 1:
            box = _reduced(box, reduction)
        return crop_and_resize(pixels, box, self.size, flip=flip)

    def _reduction(self, source: ImageSource, box: CropBox) -> int:
        if self.reducing_gap is None or not source.can_reduce:
            return 1
        enough = min(box.height / self.size[0], box.width / self.size[1]) / self.reducing_gap
        return max((each for each in REDUCTIONS if each <= enough), default=1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(size={self.size}, scale={self.scale}, ratio={self.ratio}, "
            f"flip_prob={self.flip_prob}, reducing_gap={self.reducing_gap})"
        )


@TRANSFORMS.register_module()
class DecodeResize(_DecodingTransform):
    """Decodes an image and resizes it, the same pixels as ``torchvision/Resize`` with ``antialias=True`` in less time.

    Args:
        size: the shorter side in pixels, the other one in proportion; or ``(height, width)``.

    Raises:
        ConfigError: an argument out of its range, an input that is not an image file.
        DataError: while images are read, one that cannot be decoded (named).
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.shorter_side = size if isinstance(size, int) else None
        self.size = height_and_width(size, type(self).__name__)

    def decode(self, source: ImageSource) -> Tensor:
        """The resized image, uint8 ``[3, H, W]`` in RGB."""
        height, width = source.height, source.width
        size = self.size
        if self.shorter_side is not None:  # torchvision rounds the longer side down
            short, long = sorted((height, width))
            resized = int(self.shorter_side * long / short)
            size = (self.shorter_side, resized) if height <= width else (resized, self.shorter_side)
        return crop_and_resize(source.pixels(), CropBox(0, 0, height, width), size, flip=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.shorter_side or self.size})"


def _uniform(count: int) -> list[float]:
    return torch.rand(count, dtype=torch.float64).tolist()


def _reduced(box: CropBox, reduction: int) -> CropBox:
    """The box in pixels of the reduced image, its borders rounded to the nearest."""
    top, left = round(box.top / reduction), round(box.left / reduction)
    bottom, right = round((box.top + box.height) / reduction), round((box.left + box.width) / reduction)
    return CropBox(top, left, bottom - top, right - left)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def height_and_width(size: Any, owner: str) -> tuple[int, int]:
    """``size`` as (height, width) in pixels, if it is that or the side of a square.

    Raises:
        ConfigError: it is neither.
    """
    sides = [size, size] if isinstance(size, int) else size
    whole = isinstance(sides, list | tuple) and len(sides) == 2
    if not whole or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in sides):
        raise ConfigError(
            f"{owner}: size must be a number of pixels or (height, width), at least 1, got {size!r}"
        )
    return sides[0], sides[1]


def _bounds(values: Any, name: str, largest: float, owner: str) -> tuple[float, float]:
    pair = isinstance(values, list | tuple) and len(values) == 2 and all(_is_number(v) for v in values)
    if not pair or not 0 < values[0] <= values[1] <= largest or math.isinf(values[1]):
        above = "" if math.isinf(largest) else f" <= {largest:g}"
        raise ConfigError(f"{owner}: {name} must be two numbers with 0 < low <= high{above}, got {values!r}")
    return float(values[0]), float(values[1])
