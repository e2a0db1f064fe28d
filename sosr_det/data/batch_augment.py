"""Augmentations of whole uint8 batches in memory: one call for all images, an own random draw for each image.

They are for small images (CIFAR, Tiny ImageNet), where calling a transform per image costs more than its pixels.
Every step takes and returns uint8 CPU tensors ``[B, 3, H, W]`` and leaves the batch that it is given unchanged. Random
numbers are torch's, which a data loader seeds in each worker. Copies run through NumPy's views of the tensors: its
row gather is several times faster than torch's on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn

from sosr_det.data.arguments import require_probability, rgb_fill
from sosr_det.data.transforms import build_transform
from sosr_det.errors import ConfigError, DataError


@TRANSFORMS.register_module()
class BatchRandomCrop(nn.Module):
    """Pads by ``padding`` and crops back to the image's size at a uniform offset, as ``RandomCrop(size, padding)``.

    Args:
        padding: pixels on each side, 0 or more; each of the (2 padding + 1)^2 offsets is equally likely.
        padding_mode: ``'constant'`` fills with ``fill``; ``'reflect'`` mirrors without repeating the border pixel, and
            then ``padding`` must be less than half the image.
        fill: colour of the constant padding, RGB 0-255.

    Raises:
        ConfigError: an argument out of its range, or (when called) a padding too large to reflect.
    """

    def __init__(
        self, padding: int, padding_mode: str = "constant", fill: float | Sequence[float] = 0
    ) -> None:
        super().__init__()
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ConfigError(f"BatchRandomCrop: padding is in whole pixels, 0 or more, got {padding!r}")
        if padding_mode not in ("constant", "reflect"):
            raise ConfigError(
                f"BatchRandomCrop: padding_mode must be 'constant' or 'reflect', got {padding_mode!r}"
            )
        self.padding = padding
        self.padding_mode = padding_mode
        self._fill = rgb_fill(fill, "BatchRandomCrop")

    def forward(self, images: Tensor) -> Tensor:
        """Crop every image at its own offset."""
        offsets = torch.randint(0, 2 * self.padding + 1, (len(images), 2))
        return self.crop(images, offsets)

    def crop(self, images: Tensor, offsets: Tensor) -> Tensor:
        """The crops at given ``offsets`` ``[B, 2]`` (rows, columns), each 0 to 2 padding, in the padded image."""
        height, width = images.shape[-2:]
        reflect = self.padding_mode == "reflect"
        if reflect and 2 * self.padding >= min(height, width):
            raise ConfigError(
                f"BatchRandomCrop: cannot reflect {self.padding} pixels of images of {height} x {width}; use "
                f"padding up to {(min(height, width) - 1) // 2}, or padding_mode='constant'."
            )
        source = images.numpy()
        cropped = np.empty_like(source)
        if not reflect:
            cropped[:] = self._fill.numpy()
        # Without a padded copy: only the part of the image that stays in the frame is moved.
        for one, image, (down, right) in zip(cropped, source, (offsets - self.padding).tolist(), strict=True):
            top, bottom = max(down, 0), min(height, height + down)
            left, end = max(right, 0), min(width, width + right)
            if (
                top >= bottom or left >= end
            ):  # padding beyond the image's size: the frame may show nothing else
                continue
            one[:, top - down : bottom - down, left - right : end - right] = image[:, top:bottom, left:end]
            if reflect:
                _mirror_into_border(one.transpose(1, 0, 2), down)
                _mirror_into_border(one.transpose(2, 0, 1), right)
        return torch.from_numpy(cropped)


def _mirror_into_border(lines: np.ndarray, shift: int) -> None:
    """Fill the ``|shift|`` first or last lines, which a shifted image left open, with its mirror image."""
    count, opened = len(lines), abs(shift)
    if shift < 0:
        lines[:opened] = lines[opened + 1 : 2 * opened + 1][::-1]
    elif shift > 0:
        lines[count - opened :] = lines[count - 2 * opened - 1 : count - opened - 1][::-1]


@TRANSFORMS.register_module()
class BatchRandomHorizontalFlip(nn.Module):
    """Mirrors each image left to right with probability ``p``.

    Args:
        p: 0 (never) to 1 (always).

    Raises:
        ConfigError: p outside 0-1.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = require_probability(p, "BatchRandomHorizontalFlip")

    def forward(self, images: Tensor) -> Tensor:
        """Mirror the drawn images."""
        return self.flip(images, torch.rand(len(images)) < self.p)

    def flip(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Mirror the images where ``chosen`` (bool ``[B]``) is true."""
        flipped = images.numpy().copy()
        rows = chosen.numpy()
        # torch reverses bytes several times faster than a NumPy view with a negative stride.
        flipped[rows] = torch.from_numpy(flipped[rows]).flip(-1).numpy()
        return torch.from_numpy(flipped)


@TRANSFORMS.register_module()
class PerImage(nn.Module):
    """Applies a transform for single images (AutoAugment, RandAugment, …) to every image of the batch in turn.

    The cost is the transform's: about 50 times that of the batch steps above.

    Args:
        transform: config of a v2 transform, or the transform. It must keep the image's size and uint8 type.

    Raises:
        DataError: (when called) the transform changes the image's size or type.
    """

    def __init__(self, transform: dict | Callable[[Any], Any]) -> None:
        super().__init__()
        self.transform = build_transform(transform)

    def forward(self, images: Tensor) -> Tensor:
        """Transform image by image."""
        transformed = torch.empty_like(images)
        for target, image in zip(transformed, images, strict=True):
            result = self.transform(image)
            if not isinstance(result, Tensor) or result.dtype != torch.uint8 or result.shape != image.shape:
                found = (
                    f"{result.dtype} {list(result.shape)}"
                    if isinstance(result, Tensor)
                    else type(result).__name__
                )
                raise DataError(
                    f"PerImage: {type(self.transform).__name__} turned a uint8 image {list(image.shape)} into {found}. "
                    "Steps of a batch pipeline keep size and type: resize in the inner data set's pipeline; the "
                    "model's preprocessor normalises."
                )
            target.copy_(result)
        return transformed
