"""What a data set hands to a pipeline whose first step decodes the image file itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sosr_det.errors import ConfigError, UnreadableImageError


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A whole image file in memory.

    Attributes:
        data: its bytes.
        name: what messages call it: a path, or the name inside an archive.
    """

    data: bytes
    name: str


def takes_encoded(pipeline: Callable[[Any], Any]) -> bool:
    """Whether a pipeline of :func:`sosr_det.data.transforms.build_pipeline` begins with :class:`EncodedImage`.

    Its first transform then has an attribute ``takes_encoded = True``; the other pipelines begin with a decoded image,
    uint8 ``[3, H, W]``.

    Raises:
        ConfigError: a later step takes a file, where there is an image already.
    """
    steps = getattr(pipeline, "transforms", None) or [pipeline]
    first, *others = [bool(getattr(step, "takes_encoded", False)) for step in steps]
    if any(others):
        step = steps[1 + others.index(True)]
        raise ConfigError(
            f"{type(step).__name__} decodes the image file itself, so it must be the first step of the pipeline; "
            f"before it stands {type(steps[0]).__name__}. Put it first, or take torchvision's transform of that kind."
        )
    return first


def undecodable(name: str, size: int, error: Exception) -> UnreadableImageError:
    """The error of an image file of ``size`` bytes that is damaged or no image; ``error`` is the decoder's."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UnreadableImageError(
        f"image {name} ({size} bytes) cannot be decoded: {reason}. "
        "Replace the file from the original archive, or remove it from the data set."
    )
