"""Where to put the labels of boxes so that each can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the canvas

_STEP = 6
_REACH = 120  # how far from its box a label may go, in pixels


@dataclass(frozen=True)
class Placed:
    """A label's place, and whether it stands away from its box, so that a line must connect them."""

    area: Rectangle
    away: bool


class LabelPlacer:
    """Places labels one after another, each clear of those before it; the most important first."""

    def __init__(self, width: float, height: float) -> None:
        self._bounds = (width, height)
        self._placed: list[Rectangle] = []

    def place(self, box: Rectangle, width: float, height: float, *, required: bool) -> Placed | None:
        """A place for a label of this size at its box; None if there is none nearby and it is not ``required``.

        A required label that has no free place goes to its box's corner, over whatever is there.
        """
        for touching in _touching(box, width, height):
            if self._is_free(touching):
                return self._take(touching, away=False)
        if not required:
            return None
        for distant in _around(box, width, height):
            if self._is_free(distant):
                return self._take(distant, away=True)
        left = min(max(box[0], 0), max(self._bounds[0] - width, 0))
        top = min(max(box[1], 0), max(self._bounds[1] - height, 0))
        return self._take((left, top, left + width, top + height), away=False)

    def _take(self, area: Rectangle, *, away: bool) -> Placed:
        self._placed.append(area)
        return Placed(area, away)

    def _is_free(self, area: Rectangle) -> bool:
        left, top, right, bottom = area
        if left < 0 or top < 0 or right > self._bounds[0] or bottom > self._bounds[1]:
            return False
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self._placed
        )


def _touching(box: Rectangle, width: float, height: float) -> Iterator[Rectangle]:
    """Outside above and below, then inside, each from left to right; then beside the box."""
    left, top, right, bottom = box
    for y in (top - height, bottom, top, bottom - height):
        for x in dict.fromkeys((left, max(left, right - width), (left + right - width) / 2)):
            yield x, y, x + width, y + height
    for y in (top, (top + bottom - height) / 2, bottom - height):
        for x in (right, left - width):
            yield x, y, x + width, y + height


def _around(box: Rectangle, width: float, height: float) -> Iterator[Rectangle]:
    left, top, right, bottom = box
    for distance in range(_STEP, _REACH, _STEP):
        for y in (top - height - distance, bottom + distance):
            for x in (left, left - distance, right - width + distance, (left + right - width) / 2):
                yield x, y, x + width, y + height
        for x in (right + distance, left - width - distance):
            for y in (top, bottom - height, top - distance, bottom - height + distance):
                yield x, y, x + width, y + height
