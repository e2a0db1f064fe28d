"""The configured classes of a VOC data set and their colours, checked."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sosr_det.errors import ConfigError


def check_old_style(metainfo: Mapping[str, Any] | None) -> None:
    """Refuse MMDetection 2's upper-case keys.

    Raises:
        ConfigError: there are some.
    """
    old_style = {"CLASSES", "PALETTE"} & set(metainfo or {})
    if old_style:
        raise ConfigError(f"metainfo has {sorted(old_style)}, which nothing reads: write them in lower case")


def checked_classes(classes: Any) -> tuple[str, ...]:
    """The class names as a tuple.

    Raises:
        ConfigError: they are not a sequence of names, or one comes twice.
    """
    if isinstance(classes, str) or not classes or not all(isinstance(name, str) for name in classes):
        raise ConfigError(
            f"metainfo.classes must be a sequence of names, or a file with one a line, got {classes!r}"
            + ("; a single class needs a comma: ('name',)" if isinstance(classes, str) else "")
        )
    duplicates = sorted(name for name, count in Counter(classes).items() if count > 1)
    if duplicates:
        raise ConfigError(f"metainfo.classes lists a class twice: {duplicates}")
    return tuple(classes)


def check_palette(palette: Any, num_classes: int) -> None:
    """A palette that the user gave has a colour for each class.

    Raises:
        ConfigError: it has not.
    """
    if isinstance(palette, list) and len(palette) < num_classes:
        raise ConfigError(
            f"metainfo.palette has {len(palette)} colours for {num_classes} classes; leave it out to have them "
            "chosen"
        )


def continued_palette(colours: list[tuple[int, int, int]], num_classes: int) -> list[tuple[int, int, int]]:
    """``colours``, continued with distinct ones: a list, since MMDetection takes a tuple for one colour."""
    colours = list(colours)
    while len(colours) < num_classes:
        # Steps of the golden ratio around the colour circle never come close to a colour seen before.
        hue = len(colours) * 0.6180339887498949 % 1
        colours.append(tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, 0.9)))
    return colours[:num_classes]
