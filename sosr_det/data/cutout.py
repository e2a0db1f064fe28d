"""Cutout for one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from sosr_det.data.arguments import require_square_size, rgb_fill


@TRANSFORMS.register_module()
class Cutout(v2.Transform):
    """Covers one square of the image; its centre is uniform over all pixels, and the border clips it.

    So a quarter of the square may be left in a corner, and never less. uint8 tensors ``[..., 3, H, W]`` and PIL
    images in RGB.

    Args:
        size: side of the square in pixels, 1 or more (the paper of SOSR: 8 at 32 px). An even square lies half a
            pixel up and left of its centre pixel's middle, as in the published code.
        fill: colour of the square, RGB 0-255. The published code cuts after normalisation, where 0 is the mean: give
            the data set's mean colour to repeat it.

    Raises:
        ConfigError: a size below 1, a fill outside 0-255.

    Source: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552 and its code.
    """

    def __init__(self, size: int, fill: float | Sequence[float]) -> None:
        super().__init__()
        self.size = require_square_size(size, "Cutout")
        self.fill = fill
        self._fill = rgb_fill(fill, "Cutout")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """``top``, ``left``, ``bottom``, ``right`` of the clipped square, the last two exclusive."""
        height, width = F.get_size(flat_inputs[0])
        top = int(torch.randint(height, ())) - self.size // 2
        left = int(torch.randint(width, ())) - self.size // 2
        return {
            "top": max(top, 0),
            "left": max(left, 0),
            "bottom": min(top + self.size, height),
            "right": min(left + self.size, width),
        }

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        """Paint the square."""
        top, left = params["top"], params["left"]
        height, width = params["bottom"] - top, params["right"] - left
        return self._call_kernel(F.erase, inpt, i=top, j=left, h=height, w=width, v=self._fill)
