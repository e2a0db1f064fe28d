"""Pictures of one object, as classification data sets have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sosr_det.data.demo import scenes
from sosr_det.data.demo.kinds import draw_sprite
from sosr_det.data.demo.shapes import Pen


@dataclass(frozen=True)
class Portrait:
    """A picture of one object.

    Attributes:
        jpeg: the picture as a JPEG file.
        mask: [h, w] boolean, the object's pixels within the picture.
    """

    jpeg: bytes
    mask: np.ndarray


def portrait(
    rng: np.random.Generator,
    draw: Callable[[Pen, np.random.Generator], None],
    *,
    image_side: tuple[int, int],
    object_share: tuple[float, float],
    max_angle: float,
    max_cut: float,
) -> Portrait:
    """Draw one object on a random background.

    Args:
        rng: the image's random generator.
        draw: what to draw.
        image_side: least and greatest height and width, pixels; the two vary independently.
        object_share: least and greatest longest side of the object over the image's shorter side.
        max_angle: the most the object may be turned either way, degrees.
        max_cut: how much of the object's width and height may lie outside the image, 0 (none) to below 1.
    """
    low, high = image_side
    height, width = (int(side) for side in rng.integers(low, high + 1, size=2))
    image = scenes.background(rng, height, width)
    sprite = scenes.lit(
        rng,
        draw_sprite(
            rng,
            draw,
            side=min(height, width) * rng.uniform(*object_share),
            mirrored=bool(rng.integers(2)),
            max_angle=max_angle,
        ),
    )
    top, left = (
        _place(rng, limit, length, max_cut)
        for limit, length in zip((height, width), sprite.cover.shape, strict=True)
    )
    scenes.paste(image, sprite, left, top)
    mask = np.zeros((height, width), bool)
    on_image, on_sprite = scenes.overlap(mask.shape, sprite.cover.shape, left, top)
    mask[on_image] = sprite.solid[on_sprite]
    return Portrait(scenes.encode(rng, image), mask)


def _place(rng: np.random.Generator, limit: int, length: int, max_cut: float) -> int:
    """Return a random start of ``length`` pixels on an axis of ``limit`` pixels."""
    cut = int(max_cut * length)
    ends = sorted((-cut, limit - length + cut))
    return int(rng.integers(ends[0], ends[1] + 1))
