"""A part of a list of images held out for choosing checkpoints, decided for each image by its own id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sosr_det.errors import ConfigError, DataError

PARTS = ("train", "val", "all")


def is_held_out(image_id: str, fraction: float) -> bool:
    """Whether an image belongs to the held-out part.

    The first 8 bytes of the id's SHA-256, as a big-endian fraction of 2**64, are less than ``fraction``. So an image's
    part depends on nothing else: not on a seed, the order, or which other images there are. A larger fraction holds
    out a superset. Lists that are joined, such as VOC2007's and VOC2012's, need no coordination; their ids differ.

    Args:
        image_id: As in the image-set list.
        fraction: Expected share of the images, 0 (none) to 1 (all).
    """
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") < fraction * 2**64


def check_holdout(holdout: Mapping[str, Any] | None) -> tuple[float, str] | None:
    """``(fraction, part)`` of ``dict(fraction=0.05, part="train")``; None for None, which holds out nothing.

    Raises:
        ConfigError: Other keys, a fraction that is not between 0 and 1 (both excluded), or an unknown part.
    """
    if holdout is None:
        return None
    example = "holdout=dict(fraction=0.05, part='train')"
    if not isinstance(holdout, Mapping) or set(holdout) != {"fraction", "part"}:
        raise ConfigError(f"holdout must be like {example}, got {holdout!r}")
    fraction, part = holdout["fraction"], holdout["part"]
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ConfigError(f"holdout.fraction must lie between 0 and 1, both excluded, got {fraction!r}")
    if part not in PARTS:
        raise ConfigError(f"holdout.part must be one of {', '.join(map(repr, PARTS))}, got {part!r}")
    return float(fraction), part


def holdout_part(image_ids: Sequence[str], fraction: float, part: str, what: str) -> list[str]:
    """The images of a part, in their order.

    Args:
        image_ids: The whole list.
        fraction: See :func:`is_held_out`.
        part: ``'val'`` for the held-out images, ``'train'`` for the others, ``'all'`` for both.
        what: The list's name, for the message.

    Raises:
        DataError: The part is empty.
    """
    if part == "all":
        return list(image_ids)
    chosen = [i for i in image_ids if is_held_out(i, fraction) == (part == "val")]
    if not chosen:
        raise DataError(
            f"{what}: with holdout fraction {fraction}, none of its {len(image_ids)} images belongs to part {part!r}. "
            f"Choose a {'larger' if part == 'val' else 'smaller'} fraction, or a list with more images"
        )
    return chosen
