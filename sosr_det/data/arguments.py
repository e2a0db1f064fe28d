"""Checks of the arguments that several augmentations take; each message names the augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sosr_det.errors import ConfigError


def rgb_fill(fill: float | Sequence[float], owner: str) -> Tensor:
    """``fill`` as a uint8 tensor ``[3, 1, 1]``, rounded to whole grey levels.

    Args:
        fill: one number for all channels, or red, green and blue; 0 (dark) to 255 (bright).
        owner: the transform's name, for the message.

    Raises:
        ConfigError: not one or three numbers of 0 to 255.
    """
    values = list(fill) if isinstance(fill, list | tuple) else [fill] * 3
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 255]
    if len(values) != 3 or len(numbers) != 3:
        raise ConfigError(
            f"{owner}: fill must be one number or [red, green, blue], each 0 to 255, got {fill!r}. "
            "The data set's mean colour is what a cut made after normalisation shows."
        )
    return torch.tensor([round(float(v)) for v in numbers], dtype=torch.uint8).view(3, 1, 1)


def require_square_size(size: int, owner: str) -> int:
    """``size`` if it is a whole number of pixels, at least 1.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"{owner}: size is the side of the square in whole pixels, 1 or more, got {size!r}")
    return size


def require_probability(p: float, owner: str) -> float:
    """``p`` if it is a number of 0 (never) to 1 (always).

    Raises:
        ConfigError: it is not.
    """
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ConfigError(f"{owner}: p is a probability per image, 0 (never) to 1 (always), got {p!r}")
    return float(p)
