"""SOSR as the loss of an mmpretrain head.

``custom_imports = dict(imports=["sosr_det.integrations.mmpretrain"])`` in a config registers, in mmpretrain's
own registries, ``SOSRLoss``, the base criteria and schedules by their names, and ``HeadLossEpochHook``. See
``docs/anywhere/mmpretrain.md``.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmpretrain.registry import HOOKS, MODELS
from torch import Tensor

from sosr_det import losses

for _part in (
    losses.CrossEntropy,
    losses.ConfidencePenalty,
    losses.OnlineLabelSmoothing,
    losses.LinearSchedule,
    losses.CosineSchedule,
):
    MODELS.register_module(module=_part)


@MODELS.register_module(name="SOSRLoss")
class HeadSOSRLoss(losses.SOSRLoss):
    """:class:`sosr_det.losses.SOSRLoss` behind the signature that mmpretrain's heads call.

    Args:
        threshold, weight: P and beta, or the config of a schedule: ``dict(type="LinearSchedule", start=0.0, end=0.5,
            begin_epoch=0, end_epoch=10)``.
        base: the base criterion, a module or the config of one: of this package (``dict(type="CrossEntropy",
            label_smoothing=0.1)``) or of mmpretrain (``dict(type="LabelSmoothLoss", label_smooth_val=0.1)``).
        **arguments: ``start_epoch`` and ``validate``, as :class:`sosr_det.losses.SOSRLoss`.

    In training, ``loss_base``, ``loss_sosr`` and ``overconfident_fraction`` are written to mmengine's message hub, from
    where its loggers and visualisers take them beside ``loss``, the sum of the first two.
    """

    def __init__(
        self,
        threshold: float | losses.Schedule | dict = 0.99,
        weight: float | losses.Schedule | dict = 0.5,
        base: torch.nn.Module | dict | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(_built(threshold), _built(weight), base=_built(base), **arguments)

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The training loss, 0-dim.

        Args:
            cls_score: logits ``[M, K]``.
            label: class indices ``[M]``, or the scores ``[M, K]`` that batch augmentations make of them.
            weight: must be None.
            avg_factor: None or M, which heads pass.
            reduction_override: None or ``"mean"``.

        Raises:
            ValueError: sample weights, another reduction or average factor, and the errors of
                :func:`sosr_det.losses.sosr_penalty`.
        """
        if weight is not None or reduction_override not in (None, "mean"):
            raise ValueError(
                "SOSRLoss is the mean over the batch: it takes neither sample weights nor another reduction, got "
                f"weight={weight!r}, reduction_override={reduction_override!r}"
            )
        if avg_factor is not None and avg_factor != cls_score.shape[0]:
            raise ValueError(
                f"SOSRLoss divides by the batch size {cls_score.shape[0]}, got avg_factor={avg_factor!r}; "
                "use it with a single-label head (ClsHead and its subclasses)"
            )
        if label.dim() == 2:
            label = label.float()  # `to_onehot=True` without batch augmentations leaves integers
        terms = self.terms(cls_score, label)
        if self.training:
            _log(terms)
        return terms.loss_base + terms.loss_sosr


@HOOKS.register_module()
class HeadLossEpochHook(Hook):
    """Tells losses which epoch it is; needed for schedules, ``start_epoch`` and online label smoothing only.

    The engine's ``LossEpochHook`` does this for the classifier of this project; here losses stand inside heads.
    """

    def before_train_epoch(self, runner) -> None:
        for module in runner.model.modules():
            if isinstance(module, losses.SOSRLoss):
                module.set_epoch(runner.epoch)

    def after_train_epoch(self, runner) -> None:
        for module in runner.model.modules():
            if isinstance(module, losses.OnlineLabelSmoothing):
                module.next_epoch()


def _built(value: Any) -> Any:
    return MODELS.build(value) if isinstance(value, dict) else value


def _log(terms: losses.SOSRTerms) -> None:
    hub = MessageHub.get_current_instance()
    values = torch.stack([term.detach() for term in terms]).tolist()  # one device synchronisation, not three
    for name, value in zip(terms._fields, values, strict=True):
        hub.update_scalar(f"train/{name}", value)
