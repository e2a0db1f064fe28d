"""Augmentations of whole uint8 batches that cover a part of each image; see :mod:`sosr_det.data.batch_augment`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn

from sosr_det.data.arguments import require_probability, require_square_size, rgb_fill
from sosr_det.errors import ConfigError


@TRANSFORMS.register_module()
class BatchCutout(nn.Module):
    """:class:`sosr_det.data.cutout.Cutout` for a batch: the same squares, an own centre for each image.

    Args:
        size: side of the square in pixels, 1 or more.
        fill: RGB 0-255; the data set's mean colour repeats the published code.

    Raises:
        ConfigError: a size below 1, a fill outside 0-255.

    Source: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552 and its code.
    """

    def __init__(self, size: int, fill: float | Sequence[float]) -> None:
        super().__init__()
        self.size = require_square_size(size, "BatchCutout")
        self._fill = rgb_fill(fill, "BatchCutout")

    def forward(self, images: Tensor) -> Tensor:
        """Cut one square out of every image."""
        height, width = images.shape[-2:]
        rows = torch.randint(height, (len(images),))
        columns = torch.randint(width, (len(images),))
        return self.cut(images, torch.stack([rows, columns], dim=1))

    def cut(self, images: Tensor, centres: Tensor) -> Tensor:
        """Cut squares around given ``centres`` ``[B, 2]`` (row, column)."""
        covered = images.numpy().copy()
        fill = self._fill.numpy()
        for image, (top, left) in zip(covered, (centres - self.size // 2).tolist(), strict=True):
            # A slice must not start below 0, where it would count from the far end.
            image[:, max(top, 0) : top + self.size, max(left, 0) : left + self.size] = fill
        return torch.from_numpy(covered)


@TRANSFORMS.register_module()
class BatchRandomErasing(nn.Module):
    """Covers one rectangle of random area and shape in each image with probability ``p``.

    The rectangle is drawn as torchvision's ``RandomErasing`` does: up to ten draws of area and aspect ratio until
    one is smaller than the image both ways; without one the image stays as it is.

    Args:
        p: 0 (never) to 1 (always).
        scale: least and greatest area, as a part of the image's, in (0, 1].
        ratio: least and greatest height / width, above 0.
        value: RGB 0-255 or one number; or ``'random'``, a uniform 0-255 for every pixel and channel (Zhong et al.'s
            RE-R. torchvision's ``value='random'`` draws normal numbers, which mean nothing on uint8 images).

    Raises:
        ConfigError: an argument out of its range.

    Source: Zhong et al. 2020, https://arxiv.org/abs/1708.04896
    """

    ATTEMPTS = 10

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0,
    ) -> None:
        super().__init__()
        self.p = require_probability(p, "BatchRandomErasing")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(f"BatchRandomErasing: scale must be 0 < low <= high <= 1, got {scale!r}")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigError(f"BatchRandomErasing: ratio must be 0 < low <= high, got {ratio!r}")
        if isinstance(value, str) and value != "random":
            raise ConfigError(f"BatchRandomErasing: value must be RGB 0-255 or 'random', got {value!r}")
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self._fill = None if value == "random" else rgb_fill(value, "BatchRandomErasing")

    def forward(self, images: Tensor) -> Tensor:
        """Erase a rectangle in the drawn images."""
        batch, channels, height, width = images.shape
        rectangles = self.draw_rectangles(batch, height, width)
        erased = images.numpy().copy()
        chosen = (torch.rand(batch) < self.p).tolist()
        for image, is_chosen, (top, left, rows, columns) in zip(
            erased, chosen, rectangles.tolist(), strict=True
        ):
            if is_chosen and rows:
                image[:, top : top + rows, left : left + columns] = self._paint(channels, rows, columns)
        return torch.from_numpy(erased)

    def draw_rectangles(self, batch: int, height: int, width: int) -> Tensor:
        """``[batch, 4]``: top, left, height, width in pixels; height 0 where no draw fitted."""
        shape = (batch, self.ATTEMPTS)
        area = height * width * torch.empty(shape).uniform_(*self.scale)
        ratio = torch.empty(shape).uniform_(math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1).round().long()
        fits = (sides[..., 0] < height) & (sides[..., 1] < width)
        first = fits.int().argmax(dim=1)  # 0 where none fits, which the mask below takes out
        chosen = sides[torch.arange(batch), first] * fits.any(dim=1, keepdim=True)
        room = torch.tensor([height, width]) - chosen + 1
        corners = (torch.rand(batch, 2, dtype=torch.float64) * room).long()
        return torch.cat([corners, chosen], dim=1)

    def _paint(self, channels: int, rows: int, columns: int) -> np.ndarray:
        if self._fill is not None:
            return self._fill.numpy()
        return torch.randint(256, (channels, rows, columns), dtype=torch.uint8).numpy()
