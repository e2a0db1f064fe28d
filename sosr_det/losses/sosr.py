"""Selective Output Smoothing Regularization (SOSR), the loss of the paper.

Cheng, Xie, Wang, Liu, Deng, Liu: "Selective Output Smoothing Regularization: Regularize Neural
Networks by Softening Output Distributions", section 2.2, Eq. (1)::

    L = L_CE + beta * 1/(M K) * sum_m sum_k (O~_mk - O_mk)^2

``O`` are the logits, ``O~`` is a copy in which the logits of the incorrect classes of every
*over-confident* sample are replaced by their mean. A sample is over-confident when its largest
softmax probability exceeds the threshold P and belongs to the ground-truth class.

This module imports torch only, so that it can be copied into any training loop.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SOSRTerms(NamedTuple):
    """The parts of the SOSR loss, each a 0-dim tensor.

    Attributes:
        loss_ce: cross-entropy, mean over the batch (0 for an empty batch).
        loss_sosr: ``weight`` times the penalty; ``loss_ce + loss_sosr`` is the training loss.
        overconfident_fraction: share of over-confident samples in the batch, 0 (none) to 1 (all); no gradient.
    """

    loss_ce: Tensor
    loss_sosr: Tensor
    overconfident_fraction: Tensor


def sosr_penalty(
    logits: Tensor, target: Tensor, threshold: float = 0.99, *, validate: bool | None = None
) -> Tensor:
    """The unweighted SOSR term of Eq. (1), a scalar >= 0 with a gradient on ``logits``.

    Args:
        logits: raw class scores, shape ``[M, K]``, any floating dtype, K >= 2. M = 0 gives 0.
        target: ground-truth class indices, shape ``[M]``, integer, in ``[0, K)``.
        threshold: P, inside (0, 1). Towards 1 no sample is smoothed, towards 0 every correctly
            classified one is. The paper uses 0.99 throughout.
        validate: whether to check the *values* of the tensors (finite logits, label range). The default
            ``None`` checks them on CPU tensors only: on an accelerator the check would synchronise the device.

    Returns:
        ``sum((O~ - O)^2) / (M * K)``, 0-dim, float32 (float64 for float64 logits). Computed in at least
        fp32 whatever autocast does. With K = 2 only one incorrect class is left, which is its own mean: exactly 0.

    Raises:
        ValueError: wrong shapes or dtypes, K < 2, threshold outside (0, 1), and, where values are
            checked, NaN or infinite logits and labels out of range. The message names the value.

    Source: section 2.2, Eq. (1). The result is divided by all M samples and all K classes,
    selected or not, as the equation says.
    """
    _check_threshold(threshold)
    _check_inputs(logits, target, validate)
    with _full_precision(logits):
        penalty, _ = _penalty_and_selection(_widen(logits), target, threshold)
    return penalty


def is_overconfident(
    logits: Tensor, target: Tensor, threshold: float = 0.99, *, validate: bool | None = None
) -> Tensor:
    """Which samples the paper calls over-confident: bool ``[M]``, without gradient.

    True where the most probable class is the target and its softmax probability is greater than ``threshold``.

    Raises:
        ValueError: as :func:`sosr_penalty`.
    """
    _check_threshold(threshold)
    _check_inputs(logits, target, validate)
    with torch.no_grad(), _full_precision(logits):
        return _select(_widen(logits), target, threshold)


class SOSRLoss(nn.Module):
    """Cross-entropy plus ``weight`` times the SOSR penalty: Eq. (1) as a module.

    Args:
        threshold: P, inside (0, 1); see :func:`sosr_penalty`. Default 0.99, as in the paper.
        weight: beta >= 0. 0 leaves plain cross-entropy. Default 0.5, the paper's value for CIFAR-100 and
            Tiny ImageNet combinations (Tables 5 and 6); it uses 1 on CUB-200-2011 (Table 7) and does not
            state beta elsewhere.
        validate: see :func:`sosr_penalty`.

    Shapes: ``logits [M, K]``, ``target [M]`` (class indices); returns a 0-dim tensor.

    Raises:
        ValueError: threshold outside (0, 1), negative or non-finite weight, and in ``forward`` the errors of
            :func:`sosr_penalty`.

    Example::

        criterion = SOSRLoss(threshold=0.99, weight=0.5)
        loss = criterion(model(images), labels)
    """

    def __init__(self, threshold: float = 0.99, weight: float = 0.5, *, validate: bool | None = None) -> None:
        super().__init__()
        _check_threshold(threshold)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight (the paper's beta) must be a finite number >= 0, got {weight!r}")
        self.threshold = float(threshold)
        self.weight = float(weight)
        self.validate = validate

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The training loss, 0-dim."""
        terms = self.terms(logits, target)
        return terms.loss_ce + terms.loss_sosr

    def terms(self, logits: Tensor, target: Tensor) -> SOSRTerms:
        """The loss in parts, for logging; see :class:`SOSRTerms`."""
        _check_inputs(logits, target, self.validate)
        with _full_precision(logits):
            logits = _widen(logits)
            if logits.shape[0] == 0:  # F.cross_entropy would give NaN for an empty batch
                zero = logits.sum() * 0
                return SOSRTerms(zero, zero, zero.detach())
            loss_ce = F.cross_entropy(logits, target)
            penalty, selected = _penalty_and_selection(logits, target, self.threshold)
            return SOSRTerms(loss_ce, self.weight * penalty, selected.to(logits.dtype).mean())

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, weight={self.weight}"


def _penalty_and_selection(logits: Tensor, target: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Penalty (0-dim) and selection (bool [M]) for checked inputs in at least fp32."""
    num_samples, num_classes = logits.shape
    if num_samples == 0:
        return logits.sum() * 0, torch.zeros(0, dtype=torch.bool, device=logits.device)
    selected = _select(logits.detach(), target, threshold)
    # Distances to the mean do not change under a common shift, but fp32 sums do: large equal
    # offsets (logits of 1e4) would cost digits, so remove the largest logit first.
    shifted = logits - logits.detach().amax(dim=1, keepdim=True)
    column = target.unsqueeze(1)
    incorrect_sum = shifted.scatter(1, column, 0.0).sum(dim=1, keepdim=True)
    incorrect_mean = incorrect_sum / (num_classes - 1)
    # The desired output keeps the expected logit, so its difference is exactly 0.
    difference = (incorrect_mean - shifted).scatter(1, column, 0.0)
    per_sample = difference.square().sum(dim=1)
    penalty = per_sample.where(selected, 0.0).sum() / (num_samples * num_classes)
    return penalty, selected


def _select(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    top_probability, top_class = logits.softmax(dim=1).max(dim=1)
    return (top_class == target) & (top_probability > threshold)


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _full_precision(logits: Tensor) -> torch.autocast:
    # float64 logits must stay float64, half precision must be widened: neither survives autocast.
    return torch.autocast(device_type=logits.device.type, enabled=False)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"threshold (the paper's P) must lie inside (0, 1), got {threshold!r}")


def _check_inputs(logits: Tensor, target: Tensor, validate: bool | None) -> None:
    """Shapes and dtypes always; values on CPU tensors, or when ``validate`` is true."""
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape [M, K], got {list(logits.shape)}")
    num_samples, num_classes = logits.shape
    if num_classes < 2:
        raise ValueError(f"logits need K >= 2 classes, got shape {list(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    if target.dim() != 1 or target.shape[0] != num_samples:
        raise ValueError(f"target must have shape [{num_samples}] for these logits, got {list(target.shape)}")
    if target.dtype != torch.int64:
        raise ValueError(f"target must hold class indices as torch.int64 (call .long()), got {target.dtype}")
    if torch.compiler.is_compiling():  # reading values would break the graph
        return
    check_values = logits.device.type == "cpu" if validate is None else validate
    if not check_values or num_samples == 0:
        return
    if not torch.isfinite(logits.detach().sum()) and not torch.isfinite(logits.detach()).all():
        row, column = torch.nonzero(~torch.isfinite(logits.detach()))[0].tolist()
        raise ValueError(
            f"logits must be finite, got {logits[row, column].item()} at sample {row}, class {column}"
        )
    low, high = (int(value) for value in torch.aminmax(target))
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise ValueError(f"target labels must lie in [0, {num_classes}) for these logits, got {bad}")
