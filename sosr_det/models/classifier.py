"""An image classifier as an mmengine model: backbone, linear head, loss in named terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel, initialize
from mmengine.registry import MODELS
from torch import Tensor, nn

from sosr_det.losses import SOSRLoss, is_overconfident
from sosr_det.models.backbones import build_backbone


@MODELS.register_module()
class ClassificationPreprocessor(BaseDataPreprocessor):
    """Moves a uint8 RGB batch to the device and normalises it there.

    Args:
        mean: per-channel mean, RGB order, on the 0-255 scale.
        std: per-channel standard deviation, RGB order, on the 0-255 scale, each > 0.

    The channel order is always RGB: the loaders of this project decode to RGB, and MMDetection's
    ``DetDataPreprocessor(bgr_to_rgb=True)`` with the same numbers is the same normalisation.
    """

    channel_order = "rgb"

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three values each and std > 0, got mean={mean}, std={std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """``inputs`` uint8 ``[M, 3, H, W]`` becomes normalised float32; ``labels`` are moved along."""
        data = self.cast_data(data)
        inputs = (data["inputs"].float() - self.mean) / self.std
        return {"inputs": inputs, "labels": data["labels"]}


@MODELS.register_module()
class BackboneClassifier(BaseModel):
    """Backbone, global pooling and one linear layer.

    Args:
        backbone: ``dict(arch='resnet50', init_cfg=...)``; ``arch`` as in
            :func:`sosr_det.models.build_backbone`, ``init_cfg`` as in any MMEngine module, for example
            ``dict(type='Pretrained', checkpoint='sosr://resnet50-in1k-sosr')``.
        num_classes: K >= 2; must equal the number of classes of the data.
        loss: config of the training loss. A loss with a ``terms(logits, target)`` method
            (:class:`sosr_det.losses.SOSRLoss`) is logged in parts.
        threshold_for_logging: P at which ``overconfident_fraction`` is logged when the loss is
            plain cross-entropy, so that CE and SOSR runs have the same curves.

    ``forward`` modes: ``tensor`` gives logits ``[M, K]``; ``loss`` a dict of terms, of which those with
    "loss" in their name are summed; ``predict`` one ``dict(scores=[K] probabilities, label=int)`` per image.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        loss: dict,
        threshold_for_logging: float = 0.99,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.backbone, self.backbone_spec = build_backbone(backbone["arch"])
        self.backbone_init_cfg = backbone.get("init_cfg")
        self.head = nn.Linear(self.backbone_spec.num_features, num_classes)
        self.num_classes = num_classes
        self.loss_module = MODELS.build(loss)
        if hasattr(self.loss_module, "validate"):
            # The engine's DivergenceHook and DataContractHook watch values, with better messages.
            self.loss_module.validate = False
        self.threshold_for_logging = threshold_for_logging

    def init_weights(self) -> None:
        """torchvision's own initialisation stays (made in the constructor); ``init_cfg`` is applied on top."""
        super().init_weights()
        if self.backbone_init_cfg:
            initialize(self.backbone, self.backbone_init_cfg)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        """See the class docstring."""
        logits = self.head(self.backbone(inputs))
        if mode == "tensor":
            return logits
        if mode == "loss":
            return self._loss_terms(logits, labels)
        if mode == "predict":
            scores = logits.float().softmax(dim=1)
            return [{"scores": s, "label": int(y)} for s, y in zip(scores, labels.tolist(), strict=True)]
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def _loss_terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if hasattr(self.loss_module, "terms"):
            return dict(self.loss_module.terms(logits, labels)._asdict())
        selected = is_overconfident(logits, labels, self.threshold_for_logging, validate=False)
        return {
            "loss_ce": self.loss_module(logits, labels),
            "overconfident_fraction": selected.float().mean(),
        }


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Plain mean cross-entropy: ``logits [M, K]``, ``target [M]`` class indices -> 0-dim."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch, in fp32."""
        return F.cross_entropy(logits.float(), target)


MODELS.register_module(module=SOSRLoss)
