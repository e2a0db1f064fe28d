"""The network of the drills: small, with everything in it that a resumed training could get wrong."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class FaultDrillNetwork(BaseModel):
    """Convolution, batch norm, dropout and a linear layer: statistics and random numbers beside weights.

    Args:
        num_classes: at least 2.
        data_preprocessor: as of every model.
    """

    def __init__(self, num_classes: int, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(6, num_classes)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        """``loss``: cross-entropy; ``predict``: one ``dict(scores, label)`` per image; ``tensor``: logits."""
        logits = self.head(self.backbone(inputs).mean((2, 3)))
        if mode == "loss":
            return {"loss": F.cross_entropy(logits, labels)}
        if mode == "predict":
            return [
                {"scores": s, "label": y} for s, y in zip(logits.softmax(1), labels.tolist(), strict=True)
            ]
        return logits
