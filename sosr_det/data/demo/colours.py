"""Random colours. Every object kind draws from the same ranges, so that colour alone gives no class away."""

import colorsys

import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue, each 0-255."""

# Hue, saturation and value of coats, wood and paint as one sees them: black, white, greys, browns, creams.
_NATURAL = (
    (0.08, 0.10, 0.20),
    (0.10, 0.06, 0.93),
    (0.60, 0.06, 0.55),
    (0.07, 0.60, 0.42),
    (0.06, 0.70, 0.62),
    (0.10, 0.42, 0.80),
    (0.03, 0.55, 0.30),
)


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """Convert hue (any number, taken modulo 1), saturation and value (clipped to 0-1) to a colour."""
    red, green, blue = colorsys.hsv_to_rgb(
        hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def vivid(rng: np.random.Generator) -> Colour:
    """Return a clear colour of any hue, as of paint or cloth."""
    return from_hsv(rng.random(), rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95))


def natural(rng: np.random.Generator) -> Colour:
    """Return a colour of fur, wood or stone: black, white, grey, brown or cream."""
    hue, saturation, value = _NATURAL[rng.integers(len(_NATURAL))]
    return from_hsv(
        hue + rng.uniform(-0.03, 0.03),
        saturation + rng.uniform(-0.06, 0.06),
        value + rng.uniform(-0.08, 0.08),
    )


def coat(rng: np.random.Generator) -> Colour:
    """Return a natural colour, or one time in four a vivid one."""
    return vivid(rng) if rng.random() < 0.25 else natural(rng)


def muted(rng: np.random.Generator) -> Colour:
    """Return a dull colour of any hue and lightness, for backgrounds."""
    return from_hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.95))


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (``factor`` < 1) or lighten (``factor`` > 1) a colour; each channel is clipped to 0-255."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Return how light a colour looks, 0 (black) to 255 (white), by the Rec. 601 weights."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def against(rng: np.random.Generator, colour: Colour) -> Colour:
    """Return a colour of any hue that stands out from ``colour``: much lighter if it is dark, else much darker."""
    if luminance(colour) < 128:
        return from_hsv(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.85, 1.0))
    return from_hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.28))
