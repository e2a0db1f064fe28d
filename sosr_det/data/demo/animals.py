"""Drawings of five animals (cat, cow, dog, horse, sheep) and of the person. Side views face left."""

import numpy as np

from sosr_det.data.demo.colours import against, coat, from_hsv, natural, shade, vivid
from sosr_det.data.demo.shapes import Pen, oval, rounded

_EYE = (15, 15, 18)
_PINK = (226, 150, 150)


def cat(pen: Pen, rng: np.random.Generator) -> None:
    """Sitting cat from the front: pointed ears, whiskers, a striped coat, the tail curled to one side."""
    fur = coat(rng)
    stripe = shade(fur, 0.6)
    tail = rounded([(0.3, 0.84), (0.86, 0.9), (0.92, 0.4), (0.66, 0.14)], closed=False)
    pen.line(tail, 0.2, shade(fur, 0.45))
    pen.line(tail, 0.14, fur)
    body = rounded([(-0.26, -0.2), (0.26, -0.2), (0.5, 0.5), (0.48, 0.96), (-0.48, 0.96), (-0.5, 0.5)])
    pen.polygon(body, fur)
    with pen.within(body):
        for y in (0.25, 0.45, 0.65):
            pen.line([(-0.6, y), (-0.26, y + 0.06)], 0.07, stripe)
            pen.line([(0.6, y), (0.26, y + 0.06)], 0.07, stripe)
    for x in (-0.14, 0.14):
        pen.ellipse((x, 0.88), (0.13, 0.09), shade(fur, 1.15))
    for side in (-1, 1):
        pen.polygon([(side * 0.44, -0.42), (side * 0.44, -0.98), (side * 0.06, -0.68)], fur)
        pen.polygon([(side * 0.37, -0.56), (side * 0.38, -0.84), (side * 0.18, -0.68)], _PINK, outline=False)
    pen.ellipse((0, -0.42), (0.46, 0.36), fur)
    for x in (-0.12, 0.0, 0.12):
        pen.line([(x, -0.76), (x * 0.8, -0.62)], 0.05, stripe)
    iris = from_hsv(rng.uniform(0.12, 0.5), 0.7, 0.85)
    for x in (-0.2, 0.2):
        pen.ellipse((x, -0.46), (0.1, 0.09), iris)
        pen.ellipse((x, -0.46), (0.03, 0.08), _EYE, outline=False)
    pen.polygon([(-0.06, -0.32), (0.06, -0.32), (0, -0.25)], _PINK)
    for side in (-1, 1):
        for y in (-0.32, -0.24, -0.16):
            pen.line([(side * 0.12, -0.26), (side * 0.62, y)], 0.018, against(rng, fur))


def _legs(
    pen: Pen, rng: np.random.Generator, xs: tuple[float, ...], top: float, width: float, colour
) -> None:
    for number, x in enumerate(xs):
        step = rng.uniform(-0.08, 0.08)
        leg = [(x, top), (x + step / 2, (top + 0.95) / 2), (x + step, 0.95 - width / 2)]
        tone = shade(colour, 0.75 if number % 2 else 1.0)
        pen.line(leg, width + 0.06, shade(tone, 0.45))
        pen.line(leg, width, tone)


def cow(pen: Pen, rng: np.random.Generator) -> None:
    """Cow: a heavy square body with large patches, curved horns, a pink muzzle and an udder."""
    hide = coat(rng)
    patch = against(rng, hide)
    pen.line([(0.84, -0.36), (0.96, 0.0), (0.92, 0.4)], 0.05, shade(hide, 0.6))
    pen.ellipse((0.92, 0.44), (0.05, 0.1), patch)
    _legs(pen, rng, (-0.34, -0.2, 0.54, 0.7), 0.2, 0.13, hide)
    pen.ellipse((0.34, 0.38), (0.15, 0.14), _PINK)
    body = rounded([(-0.5, -0.46), (0.8, -0.46), (0.9, -0.3), (0.86, 0.3), (-0.3, 0.4), (-0.52, 0.16)])
    pen.polygon(body, hide)
    with pen.within(body):
        for x, y in ((-0.2, -0.3), (0.18, 0.12), (0.44, -0.34), (0.76, 0.0), (-0.32, 0.24)):
            pen.ellipse(
                (x + rng.uniform(-0.08, 0.08), y + rng.uniform(-0.08, 0.08)),
                (rng.uniform(0.13, 0.22), rng.uniform(0.1, 0.18)),
                patch,
                angle=rng.uniform(0, 180),
                outline=False,
            )
    horn = (232, 222, 196)
    pen.line(rounded([(-0.6, -0.5), (-0.48, -0.7), (-0.6, -0.82)], closed=False), 0.08, horn)
    pen.line(rounded([(-0.76, -0.5), (-0.92, -0.66), (-0.84, -0.82)], closed=False), 0.08, horn)
    pen.ellipse((-0.46, -0.38), (0.17, 0.08), patch, angle=20)
    pen.blob([(-0.9, -0.54), (-0.5, -0.54), (-0.46, -0.2), (-0.62, 0.16), (-0.9, 0.16), (-0.96, -0.2)], hide)
    pen.ellipse((-0.79, 0.08), (0.19, 0.13), _PINK)
    for x in (-0.86, -0.72):
        pen.ellipse((x, 0.08), (0.03, 0.03), (90, 40, 40), outline=False)
    pen.ellipse((-0.72, -0.32), (0.045, 0.045), _EYE, outline=False)


def dog(pen: Pen, rng: np.random.Generator) -> None:
    """Dog: a slim body, a tail held up, a hanging ear, a long snout with a black nose, a collar."""
    fur = coat(rng)
    ear = shade(fur, 0.6)
    tail = rounded([(0.6, -0.04), (0.84, -0.2), (0.9, -0.6)], closed=False)
    pen.line(tail, 0.17, shade(fur, 0.45))
    pen.line(tail, 0.11, fur)
    _legs(pen, rng, (-0.28, -0.14, 0.5, 0.62), 0.2, 0.12, fur)
    pen.blob(
        [(-0.4, -0.12), (0.1, -0.08), (0.66, -0.14), (0.74, 0.2), (0.5, 0.36), (0.1, 0.3), (-0.34, 0.42)], fur
    )
    pen.blob([(-0.62, -0.4), (-0.26, -0.46), (-0.12, 0.06), (-0.4, 0.2)], fur)
    pen.line([(-0.5, -0.06), (-0.16, -0.14)], 0.1, vivid(rng))
    pen.blob(
        [
            (-0.98, -0.38),
            (-0.98, -0.22),
            (-0.66, -0.16),
            (-0.3, -0.22),
            (-0.24, -0.62),
            (-0.52, -0.72),
            (-0.66, -0.46),
        ],
        fur,
    )
    pen.ellipse((-0.95, -0.36), (0.075, 0.065), _EYE)
    pen.ellipse((-0.54, -0.5), (0.048, 0.048), _EYE, outline=False)
    pen.blob([(-0.4, -0.7), (-0.2, -0.66), (-0.12, -0.3), (-0.2, -0.1), (-0.34, -0.28)], ear)
    if rng.random() < 0.5:
        pen.line([(-0.8, -0.2), (-0.82, -0.04)], 0.09, (220, 80, 90))


def horse(pen: Pen, rng: np.random.Generator) -> None:
    """Horse: long legs, a long neck held high, a mane and a flowing tail."""
    hide = natural(rng) if rng.random() < 0.7 else coat(rng)
    hair = against(rng, hide)
    pen.blob([(0.62, -0.2), (0.82, -0.26), (0.98, 0.2), (0.92, 0.7), (0.8, 0.3)], hair)
    _legs(pen, rng, (-0.3, -0.18, 0.52, 0.64), 0.1, 0.1, hide)
    pen.blob(
        [(-0.44, -0.16), (0.1, -0.16), (0.62, -0.26), (0.76, 0.02), (0.62, 0.24), (0.1, 0.18), (-0.38, 0.28)],
        hide,
    )
    pen.polygon(
        rounded([(-0.64, -0.9), (-0.4, -0.98), (-0.2, -0.7), (0.06, -0.14), (-0.16, -0.1), (-0.4, -0.5)]),
        hair,
    )
    pen.blob([(-0.62, -0.84), (-0.4, -0.84), (-0.14, -0.12), (-0.26, 0.2), (-0.46, 0.04), (-0.5, -0.5)], hide)
    pen.polygon([(-0.52, -0.82), (-0.46, -1.0), (-0.4, -0.8)], hide)
    pen.blob(
        [(-0.66, -0.88), (-0.44, -0.86), (-0.42, -0.62), (-0.74, -0.4), (-0.94, -0.4), (-0.94, -0.54)], hide
    )
    pen.ellipse((-0.6, -0.72), (0.042, 0.042), _EYE, outline=False)
    pen.ellipse((-0.88, -0.48), (0.028, 0.028), _EYE, outline=False)
    if rng.random() < 0.35:
        pen.blob([(-0.02, -0.24), (0.34, -0.26), (0.3, 0.06), (0.04, 0.06)], vivid(rng))


def sheep(pen: Pen, rng: np.random.Generator) -> None:
    """Sheep: a body of woolly curls, short legs, a bare face with a hanging ear."""
    wool = coat(rng)
    face = against(rng, wool) if rng.random() < 0.7 else shade(wool, 0.8)
    _legs(pen, rng, (-0.34, -0.2, 0.44, 0.58), 0.4, 0.11, face)
    turns = np.linspace(0, 2 * np.pi, 15, endpoint=False)
    for turn in turns:
        pen.ellipse((0.12 + 0.62 * np.cos(turn), 0.06 + 0.38 * np.sin(turn)), (0.2, 0.19), wool)
    pen.ellipse((0.12, 0.06), (0.66, 0.42), wool, outline=False)
    for _ in range(16):
        reach, turn = rng.uniform(0.1, 0.9) ** 0.5, rng.uniform(0, 2 * np.pi)
        centre = (0.12 + 0.56 * reach * np.cos(turn), 0.06 + 0.34 * reach * np.sin(turn))
        pen.line(oval(centre, (0.1, 0.09))[:26], 0.035, shade(wool, 0.7))
    pen.ellipse((-0.36, -0.2), (0.16, 0.08), face, angle=-35)
    pen.blob([(-0.8, -0.44), (-0.5, -0.44), (-0.42, -0.14), (-0.6, 0.2), (-0.86, 0.18), (-0.92, -0.08)], face)
    pen.ellipse((-0.7, -0.18), (0.07, 0.07), (245, 245, 240), outline=False)
    pen.ellipse((-0.71, -0.18), (0.04, 0.04), _EYE, outline=False)
    for x in (-0.7, -0.58, -0.46):
        pen.ellipse((x, -0.44), (0.13, 0.11), wool)


def person(pen: Pen, rng: np.random.Generator) -> None:
    """Standing person from the front, arms in any pose; head, hands and feet are named parts as in VOC."""
    skin = from_hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.65), rng.uniform(0.35, 0.95))
    shirt, trousers, hair = vivid(rng), coat(rng), natural(rng)
    stride = rng.uniform(0.1, 0.24)
    feet = [(-stride, 0.9), (stride, 0.9)]
    for side, foot in zip((-1, 1), feet, strict=True):
        leg = [(side * 0.1, 0.2), foot]
        pen.line(leg, 0.23, shade(trousers, 0.45))
        pen.line(leg, 0.17, trousers)
    hands = []
    for side in (-1, 1):
        raised, bent = np.deg2rad(rng.uniform(-75, 60)), np.deg2rad(rng.uniform(-60, 20))
        elbow = (side * (0.22 + 0.26 * np.cos(raised)), -0.4 - 0.28 * np.sin(raised))
        hand = (elbow[0] + side * 0.26 * np.cos(raised - bent), elbow[1] - 0.28 * np.sin(raised - bent))
        arm = [(side * 0.2, -0.42), elbow, hand]
        pen.line(arm, 0.17, shade(shirt, 0.45))
        pen.line(arm, 0.11, shade(shirt, 0.85))
        hands.append(hand)
    torso = rounded([(-0.26, -0.54), (0.26, -0.54), (0.24, 0.0), (0.22, 0.28), (-0.22, 0.28), (-0.24, 0.0)])
    pen.line([(0, -0.5), (0, -0.64)], 0.14, skin)
    pen.polygon(torso, shirt)
    if rng.random() < 0.4:
        with pen.within(torso):
            for y in (-0.38, -0.2, -0.02, 0.16):
                pen.line([(-0.4, y), (0.4, y)], 0.07, against(rng, shirt))
    with pen.part("head"):
        pen.ellipse((0, -0.76), (0.17, 0.2), skin)
        pen.blob(
            [(-0.19, -0.74), (-0.19, -0.98), (0.19, -0.98), (0.19, -0.74), (0.1, -0.86), (-0.1, -0.86)], hair
        )
        for x in (-0.065, 0.065):
            pen.ellipse((x, -0.76), (0.026, 0.03), _EYE, outline=False)
        pen.line([(-0.06, -0.66), (0.06, -0.66)], 0.025, (150, 40, 50))
    for hand in hands:
        with pen.part("hand"):
            pen.ellipse(hand, (0.085, 0.085), skin)
    for side, foot in zip((-1, 1), feet, strict=True):
        with pen.part("foot"):
            pen.ellipse((foot[0] + side * 0.05, 0.92), (0.14, 0.065), shade(hair, 0.6))
