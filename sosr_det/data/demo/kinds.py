"""The twenty object kinds: the Pascal VOC classes in the devkit's order, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sosr_det.data.demo import animals, birds, furniture, vehicles
from sosr_det.data.demo.shapes import Pen, Sprite


@dataclass(frozen=True)
class Kind:
    """An object kind.

    Attributes:
        name: its Pascal VOC class name.
        draw: draws one example, its colours and proportions taken from the generator.
        sided: whether it is drawn from the side, so that mirroring makes it face right.
    """

    name: str
    draw: Callable[[Pen, np.random.Generator], None]
    sided: bool


KINDS = (
    Kind("aeroplane", vehicles.aeroplane, True),
    Kind("bicycle", vehicles.bicycle, True),
    Kind("bird", birds.any_bird, True),
    Kind("boat", vehicles.boat, True),
    Kind("bottle", furniture.bottle, False),
    Kind("bus", vehicles.bus, True),
    Kind("car", vehicles.car, True),
    Kind("cat", animals.cat, False),
    Kind("chair", furniture.chair, False),
    Kind("cow", animals.cow, True),
    Kind("diningtable", furniture.diningtable, False),
    Kind("dog", animals.dog, True),
    Kind("horse", animals.horse, True),
    Kind("motorbike", vehicles.motorbike, True),
    Kind("person", animals.person, False),
    Kind("pottedplant", furniture.pottedplant, False),
    Kind("sheep", animals.sheep, True),
    Kind("sofa", furniture.sofa, False),
    Kind("train", vehicles.train, True),
    Kind("tvmonitor", furniture.tvmonitor, False),
)


def draw_sprite(
    rng: np.random.Generator,
    draw: Callable[[Pen, np.random.Generator], None],
    *,
    side: float,
    mirrored: bool,
    max_angle: float,
) -> Sprite:
    """Draw one object in a random pose.

    Args:
        rng: the image's random generator.
        draw: what to draw, as in :class:`Kind`.
        side: the object's longest side in pixels, about.
        mirrored: whether a side view faces right instead of left.
        max_angle: the most it may be turned either way, in degrees.
    """
    pen = Pen(
        side,
        angle=rng.uniform(-max_angle, max_angle),
        mirrored=mirrored,
        stretch=rng.uniform(0.85, 1.18),
    )
    draw(pen, rng)
    return pen.sprite()
