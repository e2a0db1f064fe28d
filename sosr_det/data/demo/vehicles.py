"""Drawings of the seven vehicles: aeroplane, bicycle, boat, bus, car, motorbike, train. All face left."""

import numpy as np

from sosr_det.data.demo.colours import against, coat, from_hsv, muted, shade, vivid
from sosr_det.data.demo.shapes import Pen, Point, oval

_TYRE = (35, 35, 38)
_STEEL = (190, 192, 198)


def _glass(rng: np.random.Generator) -> tuple[int, int, int]:
    return from_hsv(rng.uniform(0.5, 0.62), rng.uniform(0.15, 0.45), rng.uniform(0.6, 0.95))


def _wheel(pen: Pen, centre: Point, radius: float) -> None:
    pen.ellipse(centre, (radius, radius), _TYRE)
    pen.ellipse(centre, (radius * 0.5, radius * 0.5), _STEEL)


def aeroplane(pen: Pen, rng: np.random.Generator) -> None:
    """Airliner from the side: a long tube, swept wings, a tail fin and a row of small windows."""
    paint, trim = coat(rng), vivid(rng)
    thick = rng.uniform(0.13, 0.18)
    pen.polygon([(-0.1, -0.05), (0.12, -0.05), (0.52, -0.5), (0.36, -0.5)], shade(paint, 0.75))
    pen.polygon([(0.62, -0.05), (0.94, -0.05), (1.0, -0.55), (0.86, -0.55)], trim)
    pen.blob(
        [(-1, 0.04), (-0.82, -thick), (0.7, -thick), (0.98, -0.1), (0.98, 0), (0.6, thick), (-0.8, thick)],
        paint,
    )
    pen.line([(-0.86, 0.06), (0.8, 0.06)], 0.05, trim)
    pen.polygon([(-0.88, -0.02), (-0.8, -0.11), (-0.7, -0.11), (-0.7, -0.02)], (40, 60, 90), outline=False)
    for x in np.arange(-0.58, 0.6, 0.13):
        pen.ellipse((x, -0.05), (0.034, 0.034), (40, 60, 90), outline=False)
    pen.ellipse((0.02, 0.3), (0.14, 0.075), shade(trim, 0.8))
    pen.polygon([(-0.24, 0.06), (0.1, 0.06), (0.6, 0.62), (0.42, 0.62)], shade(paint, 0.88))
    pen.polygon([(0.66, 0), (0.86, 0), (1.0, 0.2), (0.9, 0.2)], shade(paint, 0.88))


def bicycle(pen: Pen, rng: np.random.Generator) -> None:
    """Bicycle: two thin spoked wheels, a diamond frame, a saddle and bent handlebars."""
    paint = vivid(rng)
    radius = rng.uniform(0.38, 0.43)
    front, back, crank = (-0.56, 0.26), (0.56, 0.26), (0.04, 0.28)
    seat, head = (0.22, -0.3), (-0.36, -0.3)
    for hub in (front, back):
        for turn in np.arange(0, np.pi, np.pi / 5):
            x, y = 0.95 * radius * np.cos(turn), 0.95 * radius * np.sin(turn)
            pen.line([(hub[0] - x, hub[1] - y), (hub[0] + x, hub[1] + y)], 0.015, _STEEL)
        pen.ring(hub, radius, 0.075, _TYRE)
    for tube in ([back, crank, head, seat, crank], [seat, back], [(-0.4, -0.48), head, front]):
        pen.line(tube, 0.085, shade(paint, 0.5))
        pen.line(tube, 0.055, paint)
    pen.line([seat, (0.26, -0.45)], 0.05, _STEEL)
    pen.blob([(0.06, -0.52), (0.46, -0.56), (0.46, -0.42), (0.2, -0.44)], _TYRE)
    if rng.random() < 0.5:
        pen.line([(-0.22, -0.58), (-0.4, -0.52), (-0.56, -0.58), (-0.6, -0.44), (-0.5, -0.4)], 0.055, _TYRE)
    else:
        pen.line([(-0.2, -0.62), (-0.4, -0.54), (-0.58, -0.56)], 0.06, _TYRE)
    pen.ring(crank, 0.1, 0.045, _STEEL)
    pen.line([(-0.04, 0.44), (0.12, 0.12)], 0.04, _TYRE)


def boat(pen: Pen, rng: np.random.Generator) -> None:
    """Sailing boat: a hull with a stripe, a mast and two triangular sails."""
    hull, sail = coat(rng), muted(rng) if rng.random() < 0.5 else vivid(rng)
    mast = rng.uniform(-0.08, 0.12)
    pen.line([(mast, -0.98), (mast, 0.5)], 0.06, (92, 62, 36))
    pen.polygon([(mast + 0.06, -0.92), (mast + 0.06, 0.34), (0.84, 0.34)], sail)
    pen.polygon([(mast - 0.06, -0.74), (mast - 0.06, 0.34), (-0.72, 0.34)], shade(sail, 0.86))
    if rng.random() < 0.5:
        pen.polygon([(mast, -0.98), (mast + 0.26, -0.92), (mast, -0.84)], vivid(rng), outline=False)
    outline = [(-0.98, 0.44), (0.94, 0.44), (0.7, 0.92), (-0.62, 0.92)]
    pen.polygon(outline, hull)
    with pen.within(outline):
        pen.line([(-1, 0.56), (1, 0.56)], 0.09, against(rng, hull))


def bus(pen: Pen, rng: np.random.Generator) -> None:
    """Bus from the side: one tall box, a row of large windows, a door and two wheels."""
    paint, glass = vivid(rng), _glass(rng)
    top = rng.uniform(-0.58, -0.48)
    pen.blob(
        [(-1, top + 0.05), (-0.95, top), (0.95, top), (1, top + 0.05), (1, 0.4), (0.98, 0.42), (-0.98, 0.42)],
        paint,
    )
    pen.line([(-0.95, 0.16), (0.95, 0.16)], 0.07, against(rng, paint))
    pen.polygon([(-0.96, top + 0.12), (-0.74, top + 0.12), (-0.74, 0.02), (-0.96, 0.02)], glass)
    pen.rectangle((-0.68, top + 0.12), (-0.44, 0.38), glass)
    pen.line([(-0.56, top + 0.12), (-0.56, 0.38)], 0.03, shade(paint, 0.45))
    count = int(rng.integers(4, 6))
    width = 1.3 / count
    for number in range(count):
        left = -0.37 + number * width
        pen.rectangle((left, top + 0.12), (left + 0.8 * width, 0.0), glass)
    pen.ellipse((-0.95, 0.28), (0.04, 0.05), (255, 240, 170))
    for x in (-0.56, 0.58):
        _wheel(pen, (x, 0.42), 0.17)


def car(pen: Pen, rng: np.random.Generator) -> None:
    """Saloon car from the side: a low body, a trapezoid cabin with two windows, two large wheels."""
    paint, glass = vivid(rng) if rng.random() < 0.6 else coat(rng), _glass(rng)
    roof = rng.uniform(-0.46, -0.36)
    front, back = rng.uniform(-0.28, -0.18), rng.uniform(0.36, 0.5)
    pen.blob(
        [
            (-0.52, -0.02),
            (front, roof),
            (front, roof),
            (back, roof),
            (back, roof),
            (0.78, -0.02),
            (0.7, 0.1),
            (-0.5, 0.1),
        ],
        paint,
    )
    pen.blob(
        [
            (-1, 0.04),
            (-0.92, -0.04),
            (-0.45, -0.1),
            (0.8, -0.1),
            (0.98, 0),
            (1, 0.28),
            (0.9, 0.34),
            (-0.96, 0.34),
        ],
        paint,
    )
    pen.polygon([(-0.4, -0.06), (front + 0.05, roof + 0.1), (0.08, roof + 0.1), (0.08, -0.06)], glass)
    pen.polygon([(0.16, -0.06), (0.16, roof + 0.1), (back - 0.03, roof + 0.1), (0.62, -0.06)], glass)
    pen.line([(0.12, 0), (0.12, 0.3)], 0.02, shade(paint, 0.5))
    pen.line([(0.2, 0.08), (0.32, 0.08)], 0.035, shade(paint, 0.4))
    pen.ellipse((-0.93, 0.08), (0.06, 0.05), (255, 240, 170))
    pen.ellipse((0.95, 0.08), (0.04, 0.06), (200, 30, 30))
    for x in (-0.56, 0.58):
        _wheel(pen, (x, 0.32), 0.22)


def motorbike(pen: Pen, rng: np.random.Generator) -> None:
    """Motorcycle: two fat wheels, a tank, a long seat, an engine block and an exhaust pipe."""
    paint = vivid(rng)
    front, back = (-0.62, 0.3), (0.6, 0.3)
    for hub in (front, back):
        pen.ring(hub, 0.28, 0.17, _TYRE)
        pen.ring(hub, 0.17, 0.04, _STEEL)
        pen.ellipse(hub, (0.08, 0.08), _STEEL)
    pen.line([front, (-0.36, -0.38)], 0.09, _STEEL)
    pen.line([(-0.36, -0.38), (-0.26, -0.56), (-0.1, -0.54)], 0.06, _TYRE)
    pen.ellipse((-0.46, -0.32), (0.12, 0.12), (255, 240, 170))
    pen.polygon([(-0.3, -0.2), (0.3, -0.1), (0.6, 0.26), (0.2, 0.4), (-0.2, 0.36)], (70, 72, 80))
    for y in (0.06, 0.15, 0.24):
        pen.line([(-0.18, y), (0.16, y)], 0.035, _STEEL)
    pen.line([(-0.05, 0.34), (0.1, 0.46), (0.92, 0.42)], 0.1, _STEEL)
    pen.blob([(-0.4, -0.26), (-0.28, -0.46), (0.06, -0.44), (0.16, -0.16), (-0.22, -0.08)], paint)
    pen.blob([(0.04, -0.22), (0.3, -0.28), (0.86, -0.4), (0.9, -0.26), (0.5, -0.08), (0.1, -0.08)], _TYRE)
    pen.blob([(0.34, -0.04), (0.72, -0.12), (0.98, 0.1), (0.92, 0.14), (0.66, 0)], shade(paint, 0.85))
    pen.blob([(-0.98, 0.14), (-0.78, -0.08), (-0.44, -0.04), (-0.34, 0.12), (-0.6, 0.02)], shade(paint, 0.85))


def train(pen: Pen, rng: np.random.Generator) -> None:
    """Steam engine on a rail: a round boiler, a chimney, a cab, and a row of coupled wheels."""
    paint, trim = coat(rng), vivid(rng)
    pen.line([(-1, 0.68), (1, 0.68)], 0.06, (110, 84, 66))
    pen.polygon([(-0.98, 0.6), (-0.76, 0.28), (-0.68, 0.6)], shade(trim, 0.8))
    pen.polygon([(-0.7, -0.2), (-0.78, -0.62), (-0.4, -0.62), (-0.48, -0.2)], shade(paint, 0.6))
    pen.ellipse((-0.08, -0.22), (0.13, 0.16), trim)
    boiler = [(-0.86, -0.2), (0.3, -0.2), (0.3, 0.28), (-0.86, 0.28)]
    pen.polygon(boiler, paint)
    with pen.within(boiler):
        pen.line([(-0.86, -0.12), (0.3, -0.12)], 0.08, shade(paint, 1.35))
    for x in (-0.6, -0.3, 0.0):
        pen.line([(x, -0.2), (x, 0.28)], 0.04, trim)
    pen.rectangle((0.3, -0.62), (0.92, 0.34), paint)
    pen.rectangle((0.42, -0.46), (0.78, -0.1), _glass(rng))
    pen.rectangle((0.2, -0.72), (0.98, -0.6), trim)
    pen.rectangle((-0.86, 0.26), (0.94, 0.36), trim)
    for x, radius in ((-0.66, 0.14), (-0.32, 0.19), (0.12, 0.19), (0.56, 0.19)):
        pen.polygon(oval((x, 0.64 - radius), (radius, radius)), shade(trim, 0.7))
        pen.ellipse((x, 0.64 - radius), (0.06, 0.06), _STEEL)
    pen.line([(-0.32, 0.48), (0.56, 0.48)], 0.055, _STEEL)
