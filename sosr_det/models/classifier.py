"""An image classifier as an mmengine model: backbone, linear head, loss in named terms."""

from __future__ import annotations

from mmengine.model import BaseModel, initialize
from mmengine.registry import MODELS
from torch import Tensor, nn

from sosr_det.losses import is_overconfident
from sosr_det.models.backbones import build_backbone
from sosr_det.models.criteria import build_criterion


@MODELS.register_module()
class BackboneClassifier(BaseModel):
    """Backbone, global pooling and one linear layer.

    Args:
        backbone: ``dict(arch='resnet50', init_cfg=...)``; ``arch`` as in
            :func:`sosr_det.models.build_backbone`, ``init_cfg`` as in any MMEngine module, for example
            ``dict(type='Pretrained', checkpoint='sosr://resnet50-in1k-sosr')``.
        num_classes: K >= 2; must equal the number of classes of the data.
        loss: config of the training loss, see :func:`sosr_det.models.criteria.build_criterion`. A loss with a
            ``terms(logits, target)`` method (:class:`sosr_det.losses.SOSRLoss`) is logged in parts. Values of tensors
            are checked by the engine's hooks; ``validate=True`` makes the loss check them as well.
        threshold_for_logging: P at which ``overconfident_fraction`` is logged when the loss is not SOSR, so that all
            runs have the same curves.
        feature_dim: width of a linear layer ``reduce`` between backbone and head, at least 1; 2 makes the features that
            Figure 3 of the paper shows. Default None: no such layer.

    ``forward`` modes: ``tensor`` gives logits ``[M, K]``; ``loss`` a dict of terms, of which those with
    "loss" in their name are summed; ``predict`` one ``dict(scores=[K] probabilities, label=int)`` per image.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        loss: dict,
        threshold_for_logging: float = 0.99,
        feature_dim: int | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.backbone, self.backbone_spec = build_backbone(backbone["arch"])
        self.backbone_init_cfg = backbone.get("init_cfg")
        if feature_dim is not None and feature_dim < 1:
            raise ValueError(f"feature_dim must be at least 1, got {feature_dim}")
        num_features = self.backbone_spec.num_features
        self.reduce = None if feature_dim is None else nn.Linear(num_features, feature_dim)
        self.head = nn.Linear(feature_dim or num_features, num_classes)
        self.num_classes = num_classes
        self.loss_module = build_criterion(loss, num_classes)
        for module in self.loss_module.modules():
            if getattr(module, "validate", False) is None:
                # The engine's DivergenceHook and DataContractHook watch values, with better messages.
                module.validate = False
        self.threshold_for_logging = threshold_for_logging

    def init_weights(self) -> None:
        """the source library's own initialisation stays (made in the constructor); ``init_cfg`` is applied on top."""
        super().init_weights()
        if self.backbone_init_cfg:
            initialize(self.backbone, self.backbone_init_cfg)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        """See the class docstring."""
        logits = self.head(self.features(inputs))
        if mode == "tensor":
            return logits
        if mode == "loss":
            return self._loss_terms(logits, labels)
        if mode == "predict":
            scores = logits.float().softmax(dim=1)
            return [{"scores": s, "label": int(y)} for s, y in zip(scores, labels.tolist(), strict=True)]
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def features(self, inputs: Tensor) -> Tensor:
        """What the head sees: pooled backbone features ``[M, F]``, reduced to ``feature_dim`` where that is set."""
        pooled = self.backbone(inputs)
        return pooled if self.reduce is None else self.reduce(pooled)

    def _loss_terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if hasattr(self.loss_module, "terms"):
            terms = self.loss_module.terms(logits, labels)
            return {
                getattr(self.loss_module.base, "log_name", "loss_base"): terms.loss_base,
                "loss_sosr": terms.loss_sosr,
                "overconfident_fraction": terms.overconfident_fraction,
            }
        selected = is_overconfident(logits, labels, self.threshold_for_logging, validate=False)
        return {
            getattr(self.loss_module, "log_name", "loss"): self.loss_module(logits, labels),
            "overconfident_fraction": selected.float().mean(),
        }
