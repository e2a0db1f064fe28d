"""Drawings of the six household things: bottle, chair, dining table, potted plant, sofa, television."""

import numpy as np

from sosr_det.data.demo.colours import against, coat, from_hsv, muted, natural, shade, vivid
from sosr_det.data.demo.shapes import Pen, rounded


def bottle(pen: Pen, rng: np.random.Generator) -> None:
    """Bottle: a tall body, sloping shoulders, a thin neck with a cap, and a label."""
    glass = vivid(rng) if rng.random() < 0.7 else coat(rng)
    half, neck = rng.uniform(0.24, 0.33), rng.uniform(0.09, 0.12)
    shoulder = rng.uniform(-0.35, -0.15)
    body = [
        *[(-neck, -0.86), (-neck, -0.6), (-half, shoulder), (-half, 0.9), (-half + 0.04, 0.97)],
        *[(half - 0.04, 0.97), (half, 0.9), (half, shoulder), (neck, -0.6), (neck, -0.86)],
    ]
    pen.polygon(body, glass)
    with pen.within(body):
        pen.line([(-half * 0.6, shoulder + 0.1), (-half * 0.6, 0.85)], 0.08, shade(glass, 1.5))
    pen.rectangle((-half, 0.1), (half, 0.6), against(rng, glass))
    pen.line([(-half * 0.6, 0.28), (half * 0.6, 0.28)], 0.06, glass)
    pen.line([(-half * 0.6, 0.42), (half * 0.3, 0.42)], 0.06, glass)
    pen.rectangle((-neck - 0.03, -0.98), (neck + 0.03, -0.82), vivid(rng))


def chair(pen: Pen, rng: np.random.Generator) -> None:
    """Chair seen from the front corner: four legs, a slanted seat, a tall back with slats."""
    wood, seat = natural(rng), coat(rng)
    dark = shade(wood, 0.7)
    top = rng.uniform(-0.98, -0.85)
    pen.line([(-0.3, 0.1), (-0.3, 0.72)], 0.1, dark)
    pen.line([(0.46, 0.1), (0.5, 0.74)], 0.1, dark)
    pen.line([(-0.3, 0.06), (-0.36, top)], 0.12, wood)
    pen.line([(0.46, 0.06), (0.5, top)], 0.12, wood)
    if rng.random() < 0.5:
        for y in np.linspace(top + 0.08, -0.22, 4):
            pen.line([(-0.34, y), (0.48, y)], 0.1, wood)
    else:
        pen.line([(-0.35, top + 0.06), (0.49, top + 0.06)], 0.14, wood)
        for x in np.linspace(-0.16, 0.32, 4):
            pen.line([(x, top + 0.1), (x, 0)], 0.055, wood)
    pen.line([(-0.52, 0.34), (-0.54, 0.97)], 0.12, wood)
    pen.line([(0.54, 0.34), (0.6, 0.97)], 0.12, wood)
    pen.polygon([(-0.34, 0.02), (0.5, 0.02), (0.64, 0.34), (-0.6, 0.34)], seat)
    pen.polygon([(-0.6, 0.34), (0.64, 0.34), (0.64, 0.43), (-0.6, 0.43)], shade(seat, 0.7))


def diningtable(pen: Pen, rng: np.random.Generator) -> None:
    """Dining table: a wide top in perspective, four thin legs, and two or three plates on it."""
    wood = coat(rng)
    dark = shade(wood, 0.65)
    for x in (-0.58, 0.58):
        pen.line([(x, -0.1), (x, 0.46)], 0.08, dark)
    for x in (-0.84, 0.84):
        pen.line([(x, 0.12), (x, 0.72)], 0.12, shade(wood, 0.8))
    top = [(-0.64, -0.42), (0.64, -0.42), (0.98, 0.1), (-0.98, 0.1)]
    pen.polygon(top, wood)
    if rng.random() < 0.5:
        cloth = against(rng, wood)
        with pen.within(top):
            pen.polygon([(-0.24, -0.42), (0.24, -0.42), (0.38, 0.1), (-0.38, 0.1)], cloth, outline=False)
    pen.polygon([(-0.98, 0.1), (0.98, 0.1), (0.98, 0.2), (-0.98, 0.2)], dark)
    plate = muted(rng) if rng.random() < 0.3 else (240, 240, 236)
    places = [(-0.56, -0.06), (0.56, -0.06), (0.0, -0.2)][: int(rng.integers(2, 4))]
    for x, y in places:
        pen.ellipse((x, y), (0.22, 0.09), plate)
        pen.ellipse((x, y), (0.12, 0.045), vivid(rng), outline=False)


def pottedplant(pen: Pen, rng: np.random.Generator) -> None:
    """Potted plant: a tapered pot with a rim and a fan of pointed leaves, sometimes with flowers."""
    pot = coat(rng)
    leaf = from_hsv(rng.uniform(0.2, 0.42), rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.75))
    count = int(rng.integers(6, 9))
    tips = []
    for lean in np.linspace(-75, 75, count) + rng.uniform(-6, 6, count):
        length, turn = rng.uniform(0.85, 1.2), np.deg2rad(lean)
        along, across = (np.sin(turn), -np.cos(turn)), (np.cos(turn), np.sin(turn))
        base = (0.12 * np.sin(turn), 0.28)

        def at(far: float, aside: float, base=base, along=along, across=across) -> tuple[float, float]:
            return base[0] + far * along[0] + aside * across[0], base[1] + far * along[1] + aside * across[1]

        wide = 0.16
        pen.polygon(
            rounded(
                [at(0, 0), at(length * 0.5, wide), at(length, 0), at(length, 0), at(length * 0.5, -wide)]
            ),
            shade(leaf, rng.uniform(0.75, 1.2)),
        )
        tips.append(at(length * 0.92, 0))
    if rng.random() < 0.4:
        petal = vivid(rng)
        for tip in tips[::2]:
            pen.ellipse(tip, (0.11, 0.11), petal)
            pen.ellipse(tip, (0.04, 0.04), (250, 220, 90), outline=False)
    pen.polygon([(-0.38, 0.4), (0.38, 0.4), (0.26, 0.98), (-0.26, 0.98)], pot)
    pen.rectangle((-0.44, 0.26), (0.44, 0.44), shade(pot, 0.9))


def sofa(pen: Pen, rng: np.random.Generator) -> None:
    """Sofa from the front: a wide padded back, two seat cushions, two fat arms, stub feet."""
    cloth = coat(rng)
    cushions = int(rng.integers(2, 4))
    for x in (-0.8, 0.8):
        pen.rectangle((x - 0.06, 0.5), (x + 0.06, 0.64), (70, 48, 32))
    back = [(-0.86, -0.46), (-0.8, -0.52), (0.8, -0.52), (0.86, -0.46), (0.86, 0.2), (-0.86, 0.2)]
    pen.blob(back, shade(cloth, 0.85))
    if rng.random() < 0.4:
        with pen.within(rounded(back)):
            for x in np.arange(-0.8, 0.9, 0.2):
                pen.line([(x, -0.6), (x, 0.2)], 0.05, shade(cloth, 0.6))
    pen.rectangle((-0.86, 0.3), (0.86, 0.54), shade(cloth, 0.75))
    width = 1.36 / cushions
    for number in range(cushions):
        left = -0.68 + number * width
        pen.blob(
            [
                *[(left, 0.06), (left + 0.03, 0.02), (left + width - 0.03, 0.02), (left + width, 0.06)],
                *[(left + width, 0.3), (left + width - 0.03, 0.34), (left + 0.03, 0.34), (left, 0.3)],
            ],
            shade(cloth, 1.1),
        )
    for side in (-1, 1):
        pen.blob(
            [
                *[(side * 0.66, 0.56), (side * 0.66, -0.1), (side * 0.7, -0.18), (side * 0.94, -0.18)],
                *[(side * 1.0, -0.08), (side * 0.98, 0.56)],
            ],
            cloth,
        )
    if rng.random() < 0.5:
        x = rng.uniform(-0.4, 0.4)
        pen.polygon([(x - 0.2, -0.2), (x + 0.16, -0.26), (x + 0.2, 0.06), (x - 0.18, 0.1)], vivid(rng))


def tvmonitor(pen: Pen, rng: np.random.Generator) -> None:
    """Television: a dark frame round a glowing picture, a foot, and often an aerial."""
    frame = shade(coat(rng), 0.7)
    low = rng.uniform(0.42, 0.56)
    pen.polygon([(-0.12, low), (0.12, low), (0.16, 0.8), (-0.16, 0.8)], shade(frame, 0.8))
    pen.ellipse((0, 0.82), (0.46, 0.08), shade(frame, 0.8))
    if rng.random() < 0.6:
        for x in (-0.4, 0.4):
            pen.line([(0, -0.55), (x, -0.97)], 0.045, (150, 152, 158))
    pen.blob(
        [
            *[(-0.92, -0.52), (-0.88, -0.56), (0.88, -0.56), (0.92, -0.52)],
            *[(0.92, low), (0.88, low + 0.04), (-0.88, low + 0.04), (-0.92, low)],
        ],
        frame,
    )
    left, top, right, bottom = -0.78, -0.43, 0.78, low - 0.12
    screen = [(left, top), (right, top), (right, bottom), (left, bottom)]
    with pen.within(screen):
        pen.polygon(screen, from_hsv(rng.uniform(0.5, 0.65), 0.4, 0.95), outline=False)
        picture = rng.integers(3)
        if picture == 0:
            for number in range(7):
                x = left + number * 0.224
                pen.rectangle((x, top), (x + 0.23, bottom), vivid(rng), outline=False)
        elif picture == 1:
            pen.ellipse((0.4, top + 0.15), (0.13, 0.13), (255, 230, 120), outline=False)
            hill = from_hsv(rng.uniform(0.2, 0.4), 0.6, 0.6)
            pen.ellipse((-0.3, bottom), (0.6, 0.32), hill, outline=False)
            pen.ellipse((0.5, bottom), (0.5, 0.2), shade(hill, 0.8), outline=False)
        else:
            for y in np.arange(top + 0.1, bottom, 0.14):
                pen.line([(left + 0.1, y), (rng.uniform(0, right - 0.1), y)], 0.05, vivid(rng))
    pen.line([(-0.6, -0.36), (-0.72, -0.2)], 0.05, (245, 250, 255))
