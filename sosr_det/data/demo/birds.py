"""The bird, put together from four parts of four forms each: beak, wing pattern, tail and crest.

The object class "bird" takes its parts at random. The fine-grained bird classes each fix all four of them, and nothing
else: colours, pose and proportions vary as freely within a class as between classes.
"""

from dataclasses import dataclass

import numpy as np

from sosr_det.data.demo.colours import against, coat, from_hsv, luminance, shade
from sosr_det.data.demo.shapes import Pen, oval, rounded

BEAKS = ("Cone", "Needle", "Hook", "Spoon")
WINGS = ("Plain", "Barred", "Spotted", "Tipped")
TAILS = ("Stub", "Fork", "Fan", "Streamer")
CRESTS = ("Bald", "Spike", "Crown", "Plume")

_DARK, _LIGHT = (32, 28, 34), (246, 240, 226)


@dataclass(frozen=True)
class BirdParts:
    """Which form each part has: indices 0-3 into ``BEAKS``, ``WINGS``, ``TAILS`` and ``CRESTS``."""

    beak: int
    wing: int
    tail: int
    crest: int


def any_bird(pen: Pen, rng: np.random.Generator) -> None:
    """Bird with parts taken at random."""
    bird(pen, rng, BirdParts(*(int(form) for form in rng.integers(4, size=4))))


def bird(pen: Pen, rng: np.random.Generator, parts: BirdParts) -> None:
    """Perched bird from the side, facing left, with the given parts."""
    plumage, accent = coat(rng), coat(rng)
    horn = from_hsv(rng.uniform(0.05, 0.15), rng.uniform(0.5, 0.95), rng.uniform(0.7, 1.0))
    for x in (0.0, 0.16):
        pen.line([(x, 0.4), (x - 0.02, 0.84), (x - 0.16, 0.86)], 0.05, shade(horn, 0.7))
    _tail(pen, parts.tail, shade(plumage, 0.8), against(rng, plumage))
    _crest(pen, parts.crest, accent, shade(plumage, 0.8))
    _beak(pen, parts.beak, horn)
    body = oval((0.05, 0.16), (rng.uniform(0.5, 0.56), rng.uniform(0.34, 0.4)), angle=22)
    pen.polygon(body, plumage)
    with pen.within(body):
        pen.ellipse((-0.24, 0.34), (0.36, 0.24), shade(accent, 1.1), angle=22, outline=False)
    head = (-0.4, -0.3)
    pen.ellipse(head, (0.27, 0.25), plumage)
    pen.ellipse((-0.47, -0.35), (0.065, 0.065), (250, 250, 245))
    pen.ellipse((-0.48, -0.35), (0.036, 0.036), (10, 10, 10), outline=False)
    _wing(pen, parts.wing, shade(plumage, rng.uniform(0.7, 0.9)))


def _beak(pen: Pen, form: int, horn: tuple[int, int, int]) -> None:
    if form == 0:
        pen.polygon([(-0.58, -0.42), (-0.88, -0.25), (-0.58, -0.14)], horn)
    elif form == 1:
        pen.polygon([(-0.58, -0.34), (-1.04, -0.24), (-1.04, -0.2), (-0.58, -0.2)], horn)
    elif form == 2:
        pen.polygon(
            rounded(
                [(-0.5, -0.44), (-0.8, -0.46), (-0.94, -0.2), (-0.86, 0.08), (-0.78, -0.12), (-0.54, -0.14)]
            ),
            horn,
        )
    else:
        pen.polygon([(-0.55, -0.34), (-0.86, -0.26), (-0.86, -0.18), (-0.55, -0.18)], horn)
        pen.ellipse((-0.92, -0.2), (0.13, 0.11), horn)


def _wing(pen: Pen, form: int, colour: tuple[int, int, int]) -> None:
    mark = _LIGHT if luminance(colour) < 135 else _DARK
    shape = rounded([(-0.3, -0.02), (0.1, -0.16), (0.52, 0.16), (0.78, 0.46), (0.3, 0.42), (-0.14, 0.3)])
    pen.polygon(shape, colour)
    with pen.within(shape):
        if form == 1:
            for x in (-0.18, 0.02, 0.22, 0.42, 0.62):
                pen.line([(x + 0.1, -0.3), (x - 0.1, 0.6)], 0.085, mark)
        elif form == 2:
            for row, y in enumerate((0.0, 0.15, 0.3, 0.45)):
                for x in np.arange(-0.3 + 0.09 * (row % 2), 0.8, 0.18):
                    pen.ellipse((x, y), (0.05, 0.05), mark, outline=False)
        elif form == 3:
            pen.polygon([(0.26, -0.4), (1, -0.4), (1, 0.8), (0.12, 0.8)], mark, outline=False)
    pen.line(shape, 0.035, shade(colour, 0.45), closed=True)


def _tail(pen: Pen, form: int, colour: tuple[int, int, int], mark: tuple[int, int, int]) -> None:
    if form == 0:
        pen.polygon([(0.4, 0.22), (0.68, 0.3), (0.62, 0.52), (0.34, 0.48)], colour)
    elif form == 1:
        pen.polygon([(0.36, 0.2), (0.98, 0.1), (0.66, 0.4), (0.98, 0.72), (0.34, 0.5)], colour)
    elif form == 2:
        for lean in (-48, -24, 0, 24, 48):
            turn = np.deg2rad(lean + 18)
            centre = (0.44 + 0.3 * np.cos(turn), 0.32 + 0.3 * np.sin(turn))
            pen.ellipse(centre, (0.32, 0.1), colour, angle=lean + 18)
            tip = (0.44 + 0.52 * np.cos(turn), 0.32 + 0.52 * np.sin(turn))
            pen.ellipse(tip, (0.055, 0.055), mark, outline=False)
    else:
        pen.line(rounded([(0.4, 0.36), (0.8, 0.36), (0.96, 0.66), (0.9, 0.98)], closed=False), 0.075, colour)
        pen.line(rounded([(0.4, 0.4), (0.66, 0.46), (0.74, 0.74), (0.64, 0.98)], closed=False), 0.075, colour)


def _crest(pen: Pen, form: int, colour: tuple[int, int, int], stem: tuple[int, int, int]) -> None:
    if form == 1:
        pen.polygon([(-0.5, -0.5), (-0.2, -0.42), (0.3, -0.72), (-0.24, -0.14)], colour)
    elif form == 2:
        for x, tip in ((-0.58, -0.74), (-0.46, -0.5), (-0.32, -0.24)):
            pen.polygon([(x - 0.07, -0.42), (tip, -0.84), (x + 0.12, -0.4)], colour)
    elif form == 3:
        pen.line(rounded([(-0.4, -0.5), (-0.38, -0.82), (-0.56, -0.88)], closed=False), 0.05, stem)
        pen.ellipse((-0.62, -0.86), (0.12, 0.1), colour)
