"""Backgrounds, pasting sprites onto them, and what the camera adds."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from sosr_det.data.demo.colours import Colour, muted, shade
from sosr_det.data.demo.shapes import Sprite

_JPEG_QUALITY = 90


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a random [height, width, 3] float32 background, red green blue, 0-255."""
    paint = _PAINTERS[rng.integers(len(_PAINTERS))]
    image = paint(rng, height, width)
    image += rng.uniform(4, 18) * (_cloud(rng, height, width, cells=max(height, width) // 4) - 0.5)[..., None]
    return np.clip(image, 0, 255).astype(np.float32)


def paste(image: np.ndarray, sprite: Sprite, left: int, top: int) -> None:
    """Lay a sprite over an image, in place; what falls outside the image is cut off."""
    on_image, on_sprite = overlap(image.shape[:2], sprite.cover.shape, left, top)
    if not sprite.cover[on_sprite].size:
        return
    image[on_image] *= 1 - sprite.cover[on_sprite][..., None]
    image[on_image] += sprite.colour[on_sprite]


def overlap(
    image_size: tuple[int, int], sprite_size: tuple[int, int], left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the rows and columns that a sprite at (left, top) shares with the image: the image's, the sprite's."""
    on_image, on_sprite = [], []
    for start, length, limit in zip((top, left), sprite_size, image_size, strict=True):
        low, high = max(0, start), max(0, start, min(limit, start + length))
        on_image.append(slice(low, high))
        on_sprite.append(slice(low - start, high - start))
    return tuple(on_image), tuple(on_sprite)


def lit(rng: np.random.Generator, sprite: Sprite) -> Sprite:
    """Return the sprite with light from a random side and a little surface texture."""
    height, width = sprite.cover.shape
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + strength * (np.cos(turn) * x + np.sin(turn) * y)
    light += rng.uniform(0.05, 0.2) * (_cloud(rng, height, width, cells=max(3, width // 5)) - 0.5)
    colour = sprite.colour * light[..., None].astype(np.float32)
    # Colour is multiplied by cover, so its ceiling is too: a brighter edge pixel must not glow.
    return Sprite(np.minimum(colour, 255 * sprite.cover[..., None]), sprite.cover, sprite.parts)


def encode(rng: np.random.Generator, image: np.ndarray) -> bytes:
    """Add exposure, contrast, slight blur and sensor noise, and return the picture as a JPEG file."""
    image = (image - 128) * rng.uniform(0.8, 1.15) + 128 + rng.uniform(-18, 18)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8))
    image = image + np.float32(rng.uniform(1, 5)) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {pixels.shape} picture as JPEG")
    return data.tobytes()


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Return smooth [height, width] noise, about 0 to 1, with ``cells`` patches along the width."""
    rows = max(2, cells * height // width)
    coarse = rng.random((rows, max(2, cells)), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _blend(share: np.ndarray, one: Colour, other: Colour) -> np.ndarray:
    return np.float32(other) + share[..., None].astype(np.float32) * (np.float32(one) - np.float32(other))


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    share = 0.6 * _cloud(rng, height, width, int(rng.integers(2, 5))) + 0.4 * _cloud(rng, height, width, 12)
    return _blend(share, muted(rng), muted(rng))


def _horizon(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    sky, ground = muted(rng), muted(rng)
    image = _blend(np.repeat(np.linspace(0, 1, height)[:, None], width, axis=1), shade(sky, 1.2), sky)
    line = int(height * rng.uniform(0.45, 0.75))
    image[line:] = _blend(_cloud(rng, height - line, width, 16), ground, shade(ground, 0.75))
    return image


def _room(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = _stripes(rng, height, width) if rng.random() < 0.5 else _clouds(rng, height, width)
    line = int(height * rng.uniform(0.6, 0.8))
    floor = muted(rng)
    boards = np.arange(line, height)[:, None] // int(rng.integers(4, 9)) % 2
    image[line:] = _blend(np.repeat(boards, width, axis=1), floor, shade(floor, 0.88))
    return image


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    along = _slanted(rng, height, width, rng.uniform(0, np.pi))
    colour = muted(rng)
    return _blend(
        0.5 + 0.5 * np.sin(along * rng.uniform(0.25, 0.7)), colour, shade(colour, rng.uniform(0.7, 0.9))
    )


def _tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    turn, size = rng.uniform(0, np.pi), rng.uniform(9, 26)
    across, down = (_slanted(rng, height, width, turn + quarter) // size for quarter in (0, np.pi / 2))
    colour = muted(rng)
    return _blend((across + down) % 2, colour, shade(colour, rng.uniform(0.65, 0.9)))


def _bokeh(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = _clouds(rng, height, width)
    for _ in range(int(rng.integers(6, 16))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(image, centre, int(rng.integers(4, max(6, height // 5))), muted(rng), cv2.FILLED)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 3.0))


def _slanted(rng: np.random.Generator, height: int, width: int, turn: float) -> np.ndarray:
    """Return each pixel's distance along a direction, in pixels, from a random start."""
    y, x = np.mgrid[:height, :width]
    return np.cos(turn) * x + np.sin(turn) * y + rng.uniform(0, 100)


_PAINTERS: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (
    _clouds,
    _horizon,
    _room,
    _stripes,
    _tiles,
    _bokeh,
)
