"""Drawing primitives: a pen that works in an object's own coordinates, and the sprite it leaves.

Object coordinates: x to the right, y down, the object about filling -1 to 1; side views face left. The pen turns
them into pixels with rotation, mirroring and stretch, so a class's drawing code never thinks about any of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from sosr_det.data.demo.colours import Colour, shade

Point = tuple[float, float]

# Drawn this many times larger and shrunk by area averaging. That is the antialiasing: OpenCV's own (LINE_AA) blends
# colours but leaves no coverage mask, and the boxes have to come from the very pixels that were drawn.
_OVERSAMPLING = 3
_FRACTION_BITS = 4  # cv2 takes polygon corners as fixed-point numbers
_REACH = 1.5  # half the canvas in object units: a corner at (1, 1) stays on it however the object is turned
_CURVE_POINTS = 40


@dataclass(frozen=True)
class Sprite:
    """A drawn object, cut to the pixels it touches.

    Attributes:
        colour: [h, w, 3] float32, red green blue 0-255, already multiplied by ``cover``.
        cover: [h, w] float32, how much of each pixel the object covers, 0 (none) to 1 (all).
        parts: named parts and their [h, w] boolean masks, in the order drawn; empty for most kinds.
    """

    colour: np.ndarray
    cover: np.ndarray
    parts: tuple[tuple[str, np.ndarray], ...] = ()

    @property
    def solid(self) -> np.ndarray:
        """[h, w] boolean: the pixels counted as the object's own, those covered by half or more."""
        return self.cover >= 0.5


class Pen:
    """Draws one object in object coordinates.

    Args:
        side: the object's longest side in pixels, about (2 object units), above 0.
        angle: rotation in degrees, clockwise on the screen.
        mirrored: whether the object faces right instead of left.
        stretch: width relative to height, above 0; 1 leaves the proportions alone.
    """

    def __init__(
        self, side: float, *, angle: float = 0.0, mirrored: bool = False, stretch: float = 1.0
    ) -> None:
        scale = side / 2 * _OVERSAMPLING
        wide, high = stretch**0.5, stretch**-0.5
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        flip = -1.0 if mirrored else 1.0
        self._axes = scale * np.array([[flip * wide * cos, -high * sin], [flip * wide * sin, high * cos]])
        self._scale = scale
        pixels = int(np.ceil(side * _REACH * max(wide, high))) + 2
        self._canvas = np.zeros((pixels * _OVERSAMPLING, pixels * _OVERSAMPLING, 4), np.uint8)
        self._centre = pixels * _OVERSAMPLING / 2
        self._labels: np.ndarray | None = None
        self._part_names: list[str] = []
        self._label = 0

    def polygon(self, points: Sequence[Point] | np.ndarray, colour: Colour, *, outline: bool = True) -> None:
        """Fill a closed polygon; ``outline`` adds a thin darker edge."""
        pixels = self._pixels(points)
        self._fill(pixels, colour)
        if outline:
            self._stroke(pixels, 0.035, shade(colour, 0.45), closed=True)

    def blob(self, points: Sequence[Point], colour: Colour, *, outline: bool = True) -> None:
        """Fill a polygon with its corners rounded off."""
        self.polygon(rounded(points), colour, outline=outline)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: Colour,
        *,
        angle: float = 0.0,
        outline: bool = True,
    ) -> None:
        """Fill an ellipse; ``angle`` in degrees turns it about its own centre."""
        self.polygon(oval(centre, radii, angle), colour, outline=outline)

    def rectangle(self, corner: Point, opposite: Point, colour: Colour, *, outline: bool = True) -> None:
        """Fill a rectangle given by two opposite corners."""
        (left, top), (right, bottom) = corner, opposite
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, outline=outline)

    def line(
        self, points: Sequence[Point] | np.ndarray, width: float, colour: Colour, *, closed: bool = False
    ) -> None:
        """Draw a line with round ends and corners, ``width`` in object units."""
        self._stroke(self._pixels(points), width, colour, closed=closed)

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle's edge only; what lies inside stays as it was (through a wheel one sees the background)."""
        self.line(oval(centre, (radius, radius)), width, colour, closed=True)

    @contextmanager
    def within(self, points: Sequence[Point] | np.ndarray) -> Iterator[None]:
        """Keep everything drawn in the block inside a polygon: stripes on a wing, spots on a cow."""
        layers = [self._canvas] if self._labels is None else [self._canvas, self._labels]
        before = [layer.copy() for layer in layers]
        outside = np.full(self._canvas.shape[:2], 255, np.uint8)
        cv2.fillPoly(outside, [self._pixels(points)], 0, shift=_FRACTION_BITS)
        yield
        for layer, old in zip(layers, before, strict=True):
            cv2.copyTo(old, outside, layer)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record what the block draws as one named part, less what is drawn over it later."""
        if self._labels is None:
            self._labels = np.zeros(self._canvas.shape[:2], np.uint8)
        self._part_names.append(name)
        self._label = len(self._part_names)
        yield
        self._label = 0

    def sprite(self) -> Sprite:
        """Shrink what was drawn to image pixels and cut it out."""
        left, top, width, height = cv2.boundingRect(self._canvas[..., 3])
        # The cut starts and ends on whole image pixels, each a block of the canvas.
        first_row, first_column = top // _OVERSAMPLING, left // _OVERSAMPLING
        rows = -(-(top + height) // _OVERSAMPLING) - first_row
        columns = -(-(left + width) // _OVERSAMPLING) - first_column
        block = (
            slice(first_row * _OVERSAMPLING, (first_row + rows) * _OVERSAMPLING),
            slice(first_column * _OVERSAMPLING, (first_column + columns) * _OVERSAMPLING),
        )

        def shrink(layer: np.ndarray) -> np.ndarray:
            return cv2.resize(layer[block].astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)

        small = shrink(self._canvas)
        parts = tuple(
            (name, shrink(self._labels == label) >= 0.5)
            for label, name in enumerate(self._part_names, start=1)
        )
        return Sprite(small[..., :3], small[..., 3] / 255, parts)

    def _pixels(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        xy = np.asarray(points, np.float64)
        # Written out rather than as a matrix product: a BLAS may order the sums differently between machines.
        x = xy[:, 0] * self._axes[0, 0] + xy[:, 1] * self._axes[0, 1] + self._centre
        y = xy[:, 0] * self._axes[1, 0] + xy[:, 1] * self._axes[1, 1] + self._centre
        return np.rint(np.stack([x, y], axis=1) * (1 << _FRACTION_BITS)).astype(np.int32)

    def _fill(self, pixels: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self._canvas, [pixels], (*colour, 255), shift=_FRACTION_BITS)
        if self._labels is not None:
            cv2.fillPoly(self._labels, [pixels], self._label, shift=_FRACTION_BITS)

    def _stroke(self, pixels: np.ndarray, width: float, colour: Colour, *, closed: bool) -> None:
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self._canvas, [pixels], closed, (*colour, 255), thickness, shift=_FRACTION_BITS)
        if self._labels is not None:
            cv2.polylines(self._labels, [pixels], closed, self._label, thickness, shift=_FRACTION_BITS)


def oval(centre: Point, radii: Point, angle: float = 0.0) -> np.ndarray:
    """Return the [40, 2] corners of a polygon that stands for an ellipse, turned by ``angle`` degrees."""
    turn = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos], axis=1)


def rounded(points: Sequence[Point], *, closed: bool = True) -> np.ndarray:
    """Return a smooth line near the given corners: three rounds of Chaikin's corner cutting.

    An open line keeps its two ends.
    """
    curve = np.asarray(points, np.float64)
    for _ in range(3):
        following = np.roll(curve, -1, axis=0) if closed else curve[1:]
        start = curve if closed else curve[:-1]
        cut = np.stack([0.75 * start + 0.25 * following, 0.25 * start + 0.75 * following], axis=1).reshape(
            -1, 2
        )
        curve = cut if closed else np.concatenate([curve[:1], cut, curve[-1:]])
    return curve
