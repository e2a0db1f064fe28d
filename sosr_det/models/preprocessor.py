"""What happens to a batch on the device: normalisation, and mixing of images while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS, TRANSFORMS

from sosr_det.data.decode.planned import PLAN
from sosr_det.errors import ConfigError


@MODELS.register_module()
class ClassificationPreprocessor(BaseDataPreprocessor):
    """Moves a uint8 RGB batch to the device, normalises it there and, in training, mixes its images.

    Args:
        mean: per-channel mean, RGB order, on the 0-255 scale.
        std: per-channel standard deviation, RGB order, on the 0-255 scale, each > 0.
        batch_augments: transforms of a batch with its labels, for example
            ``[dict(type='torchvision/CutMix', num_classes=100, alpha=1.0)]``; each training batch gets one of them,
            chosen with equal chance. They turn labels into soft targets ``[M, K]``.
        batch_augment_probability: chance that a training batch is mixed at all, 0 (never) to 1 (always). CutMix's
            public code uses 0.5 on CIFAR and 1 on ImageNet.
        batch_decoder: what decodes the batches whose images arrive as files
            (:func:`sosr_det.data.decode.planned.collate_planned`), for example ``dict(type='DaliDecoder', size=224)``.

    The channel order is always RGB: the loaders of this project decode to RGB, and MMDetection's
    ``DetDataPreprocessor(bgr_to_rgb=True)`` with the same numbers is the same normalisation.

    Raises:
        ValueError: mean or std without three values, std <= 0, a probability outside [0, 1].
    """

    channel_order = "rgb"

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        batch_augments: Sequence[dict] = (),
        batch_augment_probability: float = 1.0,
        batch_decoder: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three values each and std > 0, got mean={mean}, std={std}")
        if not 0 <= batch_augment_probability <= 1:
            raise ValueError(f"batch_augment_probability must lie in [0, 1], got {batch_augment_probability}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), False)
        self.batch_augments = [TRANSFORMS.build(dict(augment)) for augment in batch_augments]
        self.batch_augment_probability = batch_augment_probability
        self.batch_decoder = TRANSFORMS.build(dict(batch_decoder)) if batch_decoder else None

    def forward(self, data: dict, training: bool = False) -> dict:
        """``inputs`` uint8 ``[M, 3, H, W]`` becomes normalised float32; ``labels`` int64 ``[M]``, or soft ``[M, K]``
        where images were mixed, move along."""
        if PLAN in data:
            data = {"inputs": self._decode(data), "labels": data["labels"]}
        data = self.cast_data(data)
        # One new tensor, then in place: at 64 px the temporaries would cost more than the augmentation.
        inputs = data["inputs"].to(torch.float32, copy=True).sub_(self.mean).div_(self.std)
        labels = data["labels"]
        if training and self.batch_augments and torch.rand(()).item() < self.batch_augment_probability:
            choice = int(torch.randint(len(self.batch_augments), ()))
            inputs, labels = self.batch_augments[choice](inputs, labels)
        return {"inputs": inputs, "labels": labels}

    def _decode(self, data: dict) -> torch.Tensor:
        if self.batch_decoder is None:
            raise ConfigError(
                "PlanRandomResizedCrop gives files and not images: set model.data_preprocessor.batch_decoder, or use "
                "DecodeRandomResizedCrop in its place."
            )
        return self.batch_decoder(data["inputs"], data[PLAN], self.device)
