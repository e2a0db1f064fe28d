"""Scenes of several objects: where each stands, what hides what, and the box around what is left to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sosr_det.data.demo import scenes
from sosr_det.data.demo.kinds import KINDS, draw_sprite
from sosr_det.data.demo.shapes import Sprite

_HEIGHTS, _WIDTHS = (150, 180), (200, 240)
_EXTRA_OBJECTS = (0.35, 0.3, 0.2, 0.15)  # probabilities of 0, 1, 2 and 3 objects beside the first
_SMALL_SIDE = 20  # pixels; an object whose box is smaller both ways counts as difficult
_DIFFICULT_SHARE = 0.4  # so does one of which less than this share can be seen
_LEAST_PIXELS, _LEAST_SIDE = 24, 5  # of an object worth a box
_TRIES = 12


@dataclass(frozen=True)
class Box:
    """A box in Pascal VOC's convention: pixels counted from 1, all four bounds inside the box."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int

    @classmethod
    def around(cls, mask: np.ndarray) -> Box:
        """Return the tight box of a [h, w] boolean mask that is not empty."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return cls(int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1)

    @property
    def width(self) -> int:
        """Width in pixels, 1 or more."""
        return self.xmax - self.xmin + 1

    @property
    def height(self) -> int:
        """Height in pixels, 1 or more."""
        return self.ymax - self.ymin + 1


@dataclass(frozen=True)
class Placed:
    """A sprite in a scene; ``left`` and ``top`` are its upper left corner in pixels and may be negative."""

    kind: int
    sprite: Sprite
    left: int
    top: int
    faces_right: bool


@dataclass(frozen=True)
class SceneObject:
    """What can be said of one object of a finished scene.

    Attributes:
        kind: index into ``KINDS``.
        box: around the object's visible pixels.
        truncated: whether some of it lies outside the image.
        occluded: whether some of it is hidden by another object.
        difficult: whether it is very small or mostly out of sight.
        faces_right: which way a side view looks.
        parts: the named parts that can be seen, with their boxes; none in half of the scenes, as only some of VOC's
            images have them annotated.
    """

    kind: int
    box: Box
    truncated: bool
    occluded: bool
    difficult: bool
    faces_right: bool
    parts: tuple[tuple[str, Box], ...]


@dataclass(frozen=True)
class Scene:
    """A finished scene.

    Attributes:
        jpeg: the picture as a JPEG file.
        size: height and width in pixels.
        placed: the sprites in painter's order, later ones over earlier ones.
        objects: one for each of ``placed``, in the same order.
    """

    jpeg: bytes
    size: tuple[int, int]
    placed: tuple[Placed, ...]
    objects: tuple[SceneObject, ...]


def compose(rng: np.random.Generator, kind: int) -> Scene:
    """Draw a scene of one to four objects, of which the first is a clearly visible one of the given kind.

    Args:
        rng: the image's random generator.
        kind: index into ``KINDS``.
    """
    size = int(rng.integers(_HEIGHTS[0], _HEIGHTS[1] + 1)), int(rng.integers(_WIDTHS[0], _WIDTHS[1] + 1))
    image = scenes.background(rng, *size)
    extra = rng.integers(len(KINDS), size=rng.choice(len(_EXTRA_OBJECTS), p=_EXTRA_OBJECTS))
    placed = [_first(rng, kind, size)]
    for other in extra:
        newcomer = _another(rng, int(other), size, placed)
        if newcomer is not None:
            placed.append(newcomer)
    for item in placed:
        scenes.paste(image, item.sprite, item.left, item.top)
    owner = _owner(size, placed)
    with_parts = bool(rng.integers(2))
    objects = tuple(_describe(item, owner == number, with_parts) for number, item in enumerate(placed))
    return Scene(scenes.encode(rng, image), size, tuple(placed), objects)


def _first(rng: np.random.Generator, kind: int, size: tuple[int, int]) -> Placed:
    sprite, faces_right = _sprite(rng, kind, size[0] * rng.uniform(0.45, 0.78))
    cut = 0.3 if rng.random() < 0.25 else 0.0
    while True:  # twice at most: uncut, a first object fits into the image and can be seen whole
        item = Placed(kind, sprite, *_position(rng, sprite, size, cut), faces_right)
        if _worth_a_box(_mask(size, item)) and _shares(size, [item])[0] > 0.6:
            return item
        cut = 0.0


def _another(
    rng: np.random.Generator, kind: int, size: tuple[int, int], placed: list[Placed]
) -> Placed | None:
    """Return an object to lay over those placed, or None where no place was found that leaves all of them visible."""
    tiny = rng.random() < 0.18
    sprite, faces_right = _sprite(
        rng, kind, rng.uniform(13, 18) if tiny else size[0] * rng.uniform(0.3, 0.55)
    )
    cut = 0.45 if rng.random() < 0.2 else 0.0
    least = 0.15 if rng.random() < 0.3 else 0.65
    for _ in range(_TRIES):
        item = Placed(kind, sprite, *_position(rng, sprite, size, cut), faces_right)
        candidate = [*placed, item]
        owner = _owner(size, candidate)
        visible = all(_worth_a_box(owner == number) for number in range(len(candidate)))
        shares = _shares(size, candidate)
        if visible and shares[0] > 0.6 and shares[-1] > 0.45 and min(shares[1:]) > least:
            return item
    return None


def _sprite(rng: np.random.Generator, kind: int, side: float) -> tuple[Sprite, bool]:
    faces_right = bool(rng.integers(2))
    sprite = draw_sprite(rng, KINDS[kind].draw, side=side, mirrored=faces_right, max_angle=12)
    return scenes.lit(rng, sprite), faces_right


def _position(rng: np.random.Generator, sprite: Sprite, size: tuple[int, int], cut: float) -> tuple[int, int]:
    """Return a random left and top within the image, or with up to ``cut`` of one side beyond a random edge."""
    top, left = (
        int(rng.integers(0, max(1, limit - length + 1)))
        for limit, length in zip(size, sprite.cover.shape, strict=True)
    )
    if cut:
        height, width = sprite.cover.shape
        share, edge = rng.uniform(0.1, cut), rng.integers(4)
        if edge < 2:
            left = int(-share * width) if edge else size[1] - int((1 - share) * width)
        else:
            top = int(-share * height) if edge == 2 else size[0] - int((1 - share) * height)
    return left, top


def _mask(size: tuple[int, int], item: Placed) -> np.ndarray:
    """Return the [h, w] boolean mask of an object's pixels within the image, hidden ones too."""
    mask = np.zeros(size, bool)
    on_image, on_sprite = scenes.overlap(size, item.sprite.cover.shape, item.left, item.top)
    mask[on_image] = item.sprite.solid[on_sprite]
    return mask


def _owner(size: tuple[int, int], placed: list[Placed]) -> np.ndarray:
    """Return for each pixel the number of the topmost object that covers at least half of it, or -1."""
    owner = np.full(size, -1, np.int8)
    for number, item in enumerate(placed):
        owner[_mask(size, item)] = number
    return owner


def _shares(size: tuple[int, int], placed: list[Placed]) -> list[float]:
    """Return how much of each whole object can be seen, 0 to 1."""
    owner = _owner(size, placed)
    return [
        np.count_nonzero(owner == number) / np.count_nonzero(item.sprite.solid)
        for number, item in enumerate(placed)
    ]


def _worth_a_box(visible: np.ndarray) -> bool:
    if np.count_nonzero(visible) < _LEAST_PIXELS:
        return False
    box = Box.around(visible)
    return min(box.width, box.height) >= _LEAST_SIDE


def _describe(item: Placed, visible: np.ndarray, with_parts: bool) -> SceneObject:
    whole, inside = np.count_nonzero(item.sprite.solid), np.count_nonzero(_mask(visible.shape, item))
    seen = np.count_nonzero(visible)
    box = Box.around(visible)
    parts = []
    for name, part in item.sprite.parts if with_parts else ():
        mask = np.zeros(visible.shape, bool)
        on_image, on_sprite = scenes.overlap(visible.shape, part.shape, item.left, item.top)
        mask[on_image] = part[on_sprite]
        mask &= visible
        if np.count_nonzero(mask) >= 4:
            parts.append((name, Box.around(mask)))
    return SceneObject(
        kind=item.kind,
        box=box,
        truncated=inside < whole,
        occluded=seen < inside,
        difficult=max(box.width, box.height) < _SMALL_SIDE or seen < _DIFFICULT_SHARE * whole,
        faces_right=item.faces_right,
        parts=tuple(parts),
    )
