"""Views that are drawn in the loader's workers and decoded elsewhere: files travel, and what to make of them.

The random numbers are those of :class:`sosr_det.data.decode.transforms.DecodeRandomResizedCrop`, so a decoder on the
device changes neither what is seen nor what a resumed run goes on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import torch
from mmengine.registry import FUNCTIONS, TRANSFORMS
from torch import Tensor

from sosr_det.data.decode.crop_box import CropBox
from sosr_det.data.decode.rows import ImageSource
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop
from sosr_det.errors import ConfigError

PLAN = "plan"  # of a batch: int64 [B, 6], the columns below
COLUMNS = ("num_bytes", *CropBox._fields, "flip")


@TRANSFORMS.register_module()
class PlanRandomResizedCrop(DecodeRandomResizedCrop):
    """Draws the view that ``DecodeRandomResizedCrop`` would make, and leaves making it to a decoder of batches.

    Needs ``collate_fn=dict(type='collate_planned')`` and a ``batch_decoder`` in the model's preprocessor, which also
    knows the size. JPEGs travel as they are; what such decoders do not take alike (other formats, four components,
    damaged files) is decoded here and travels as PNG.

    Args:
        scale, ratio, flip_prob: as for ``DecodeRandomResizedCrop``.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.0,
    ) -> None:
        super().__init__(1, scale, ratio, flip_prob, reducing_gap=None)

    def decode(self, source: ImageSource) -> dict[str, Tensor]:
        """``data``: uint8 ``[num_bytes]``; ``plan``: int64 ``[6]``, see ``COLUMNS``."""
        box, flip = self.draw(source)
        data = source.encoded.data
        if source.header is None or source.header.end_of_scan(data) < 0:
            data = cv2.imencode(".png", source.pixels())[1].tobytes()
        plan = torch.tensor([len(data), *box, flip], dtype=torch.int64)
        return {"data": torch.frombuffer(bytearray(data), dtype=torch.uint8), PLAN: plan}


@FUNCTIONS.register_module()
def collate_planned(samples: Sequence[dict]) -> dict[str, Tensor]:
    """A batch of a data set that ends its pipeline with :class:`PlanRandomResizedCrop`.

    Returns:
        ``inputs``: uint8 ``[B, longest file]``, padded with zeros; ``plan``: int64 ``[B, 6]``; ``labels``: int64
        ``[B]``.

    Raises:
        ConfigError: the samples are images.
    """
    planned: list[Any] = [sample["inputs"] for sample in samples]
    if not all(isinstance(each, dict) and PLAN in each for each in planned):
        raise ConfigError(
            "collate_fn 'collate_planned' is for pipelines that consist of PlanRandomResizedCrop, and this one gives "
            f"{type(planned[0]).__name__}. Use collate_fn=dict(type='default_collate')."
        )
    files = [each["data"] for each in planned]
    inputs = torch.zeros(len(files), max(map(len, files)), dtype=torch.uint8)
    for row, file in zip(inputs, files, strict=True):
        row[: len(file)] = file
    return {
        "inputs": inputs,
        PLAN: torch.stack([each[PLAN] for each in planned]),
        "labels": torch.tensor([sample["labels"] for sample in samples], dtype=torch.int64),
    }
