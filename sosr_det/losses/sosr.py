"""Selective Output Smoothing Regularization as a training loss: a base criterion plus the penalty of Eq. (1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sosr_det.losses.checks import (
    check_finite,
    check_not_negative,
    check_shapes,
    check_target_values,
    check_threshold,
    values_can_be_read,
)
from sosr_det.losses.criteria import Criterion, CrossEntropy
from sosr_det.losses.penalty import (
    NegativeLogLikelihoodWithPenalty,
    attach_penalty,
    can_be_fused,
    full_precision,
    measure,
    widened,
)
from sosr_det.losses.schedules import Schedule
from sosr_det.losses.targets import Target, expected_set, is_mixed, is_soft, soft_target


class SOSRTerms(NamedTuple):
    """The parts of the SOSR loss, each a 0-dim tensor.

    Attributes:
        loss_base: the base criterion, cross-entropy by default; mean over the batch (0 for an empty batch).
        loss_sosr: ``weight`` times the penalty; ``loss_base + loss_sosr`` is the training loss.
        overconfident_fraction: share of over-confident samples in the batch, 0 (none) to 1 (all); no gradient.
    """

    loss_base: Tensor
    loss_sosr: Tensor
    overconfident_fraction: Tensor


class SOSRLoss(nn.Module):
    """A base criterion plus ``weight`` times the SOSR penalty: Eq. (1) as a module.

    Args:
        threshold: P, inside (0, 1); see :func:`sosr_det.losses.sosr_penalty`. Default 0.99, as in the paper. A
            schedule (a callable of the epoch, for example :class:`sosr_det.losses.LinearSchedule`) is taken too.
        weight: beta >= 0. 0 leaves the base criterion. Default 0.5, the paper's value for CIFAR-100 and Tiny ImageNet
            combinations (Tables 5 and 6); it uses 1 on CUB-200-2011 (Table 7) and does not state beta
            elsewhere. A schedule is taken too.
        base: the criterion that SOSR is added to, called as ``base(logits, target)``: one of this package
            (:class:`CrossEntropy`, :class:`ConfidencePenalty`, :class:`OnlineLabelSmoothing`) or any module that
            takes class indices and returns a scalar. Default None: plain cross-entropy. Over-confidence is judged on
            the label set itself, whatever the base makes of the labels.
        start_epoch: SOSR is off before this epoch (counted from 0). Default 0, as in the paper.
        validate: see :func:`sosr_det.losses.sosr_penalty`.

    Shapes: ``logits [M, K]``; ``target`` class indices ``[M]``, soft targets ``[M, K]`` or ``(y_a, y_b, lam)``, see
    :class:`sosr_det.losses.MixedTarget`; returns a 0-dim tensor. A base from elsewhere gets mixed labels as soft
    targets.

    With a schedule or a start epoch, call :meth:`set_epoch` at the start of every epoch (the engine does it).

    Raises:
        ValueError: threshold outside (0, 1), negative or non-finite weight, negative start epoch, and in ``forward``
            the errors of :func:`sosr_det.losses.sosr_penalty`.

    Example::

        criterion = SOSRLoss(threshold=0.99, weight=0.5)
        loss = criterion(model(images), labels)
    """

    def __init__(
        self,
        threshold: float | Schedule = 0.99,
        weight: float | Schedule = 0.5,
        *,
        base: nn.Module | None = None,
        start_epoch: int = 0,
        validate: bool | None = None,
    ) -> None:
        super().__init__()
        if base is not None and (isinstance(base, type) or not callable(base)):
            raise ValueError(f"base must be a criterion module (an instance, not its class), got {base!r}")
        check_not_negative(start_epoch, "start_epoch (counted from 0)")
        self.base = CrossEntropy() if base is None else base
        self.start_epoch = start_epoch
        self.validate = validate
        self._threshold, self._weight = threshold, weight
        self.set_epoch(0)

    def set_epoch(self, epoch: float) -> None:
        """Set ``threshold`` and ``weight`` to their values of this epoch, counted from 0.

        Raises:
            ValueError: a schedule leaves the range.
        """
        threshold = self._threshold(epoch) if callable(self._threshold) else self._threshold
        weight = self._weight(epoch) if callable(self._weight) else self._weight
        check_threshold(threshold)
        check_not_negative(weight)
        self.threshold = float(threshold)
        self.weight = float(weight) if epoch >= self.start_epoch else 0.0

    def forward(self, logits: Tensor, target: Target) -> Tensor:
        """The training loss, 0-dim."""
        loss_base, penalty, _ = self._compute(logits, target)
        return torch.add(loss_base, penalty, alpha=self.weight)

    def terms(self, logits: Tensor, target: Target) -> SOSRTerms:
        """The loss in parts, for logging; see :class:`SOSRTerms`."""
        loss_base, penalty, selected = self._compute(logits, target)
        fraction = selected.to(loss_base.dtype).mean() if selected.numel() else torch.zeros_like(loss_base)
        return SOSRTerms(loss_base, self.weight * penalty, fraction)

    def _compute(self, logits: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """Base loss, unweighted penalty (both 0-dim), and the selection, bool ``[M, 1]``."""
        check_shapes(logits, target)
        read_values = values_can_be_read(logits, self.validate)
        if read_values:
            check_target_values(target, logits.shape[1])
        with full_precision(logits):
            logits = widened(logits)
            if logits.shape[0] == 0:  # means over nothing would be NaN
                zero = logits.sum() * 0
                return zero, zero, torch.zeros(0, 1, dtype=torch.bool, device=logits.device)
            log_probabilities = logits.log_softmax(dim=1)
            with torch.no_grad():
                expected = expected_set(target, logits.shape[1])
                parts = measure(log_probabilities, expected, self.threshold)
            if read_values and not parts.is_finite():
                check_finite(logits)
            if self._base_is_plain_cross_entropy() and isinstance(expected.size, int) and can_be_fused():
                loss_base, penalty = NegativeLogLikelihoodWithPenalty.apply(
                    log_probabilities, expected.index, parts.squares, parts.deviation, parts.active
                )
            else:
                loss_base = self._base_loss(logits, target)
                penalty = attach_penalty(logits, expected, parts)
        return loss_base, penalty, parts.selected

    def _base_is_plain_cross_entropy(self) -> bool:
        return type(self.base) is CrossEntropy and self.base.label_smoothing == 0

    def _base_loss(self, logits: Tensor, target: Target) -> Tensor:
        if isinstance(self.base, Criterion):
            return self.base.compute(logits, target)  # checked above
        if is_mixed(target) or is_soft(target):
            target = soft_target(target, logits.shape[1], logits.dtype)
        loss = self.base(logits, target)
        if loss.dim() != 0:
            raise ValueError(
                f"base must return the mean over the batch, 0-dim, got shape {list(loss.shape)}; "
                "give it reduction='mean'"
            )
        return loss

    def extra_repr(self) -> str:
        extra = f", start_epoch={self.start_epoch}" if self.start_epoch else ""
        return f"threshold={self._threshold}, weight={self._weight}{extra}"
