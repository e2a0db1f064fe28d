"""The SOSR penalty and the selection of over-confident samples: the pure functions.

Cheng, Xie, Wang, Liu, Deng, Liu: "Selective Output Smoothing Regularization: Regularize Neural
Networks by Softening Output Distributions", section 2.2, Eq. (1)::

    L = L_CE + beta * 1/(M K) * sum_m sum_k (O~_mk - O_mk)^2

``O`` are the logits, ``O~`` is a copy in which the logits of the incorrect classes of every
*over-confident* sample are replaced by their mean. A sample is over-confident when its largest softmax
probability exceeds the threshold P and belongs to the ground-truth class; with several expected classes
(CutMix, section 3.2), when the sum of their probabilities exceeds P.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sosr_det.losses.checks import (
    check_finite,
    check_shapes,
    check_target_values,
    check_threshold,
    values_can_be_read,
)
from sosr_det.losses.targets import ExpectedSet, Target, expected_set


def sosr_penalty(
    logits: Tensor, target: Target, threshold: float = 0.99, *, validate: bool | None = None
) -> Tensor:
    """The unweighted SOSR term of Eq. (1), a scalar >= 0 with a gradient on ``logits``.

    Args:
        logits: raw class scores, shape ``[M, K]``, any floating dtype, K >= 2. M = 0 gives 0.
        target: class indices int64 ``[M]`` in ``[0, K)``; soft targets ``[M, K]``, >= 0, each row summing to 1; or
            the labels of a mixed batch, ``(y_a, y_b, lam)``, see :class:`sosr_det.losses.MixedTarget`. Which classes
            each of them expects: :func:`sosr_det.losses.expected_classes`.
        threshold: P, inside (0, 1). Towards 1 no sample is smoothed, towards 0 every correctly
            classified one is. The paper uses 0.99 wherever it states P (it does not for ImageNet).
        validate: whether to check the *values* of the tensors (finite logits, label range, sums). The default
            ``None`` checks them on CPU tensors only: on an accelerator the check would synchronise the device. Inside
            ``torch.compile`` values are never checked: reading them would break the graph.

    Returns:
        ``sum((O~ - O)^2) / (M * K)``, 0-dim, float32 (float64 for float64 logits). Computed in at least fp32
        whatever autocast does. A sample with no or one incorrect class left (K = 2, or a mix of K - 1 classes)
        contributes exactly 0: one class is its own mean.

    Raises:
        ValueError: wrong shapes or dtypes, K < 2, threshold outside (0, 1), and, where values are checked, NaN or
            infinite logits, labels out of range, soft targets that do not sum to 1 or expect no class. The message
            names the value.

    Source: section 2.2, Eq. (1), and section 3.2. The result is divided by all M samples and all K classes,
    selected or not, as the equation says.
    """
    check_threshold(threshold)
    check_shapes(logits, target)
    read_values = values_can_be_read(logits, validate)
    if read_values:
        check_target_values(target, logits.shape[1])
    with full_precision(logits):
        scores = widened(logits)
        if scores.shape[0] == 0:
            return scores.sum() * 0
        with torch.no_grad():
            expected = expected_set(target, scores.shape[1])
            log_probabilities = scores.log_softmax(dim=1)
            parts = measure(log_probabilities, expected, threshold)
        if read_values and not parts.is_finite():
            check_finite(scores)
        return attach_penalty(scores, expected, parts)


def is_overconfident(
    logits: Tensor, target: Target, threshold: float = 0.99, *, validate: bool | None = None
) -> Tensor:
    """Which samples the paper calls over-confident: bool ``[M]``, without gradient.

    True where the probabilities of the expected classes sum to more than ``threshold`` and, where only one class is
    expected, that class is the most probable one.

    Raises:
        ValueError: as :func:`sosr_penalty`.
    """
    check_threshold(threshold)
    check_shapes(logits, target)
    if values_can_be_read(logits, validate):
        check_target_values(target, logits.shape[1])
        check_finite(logits.detach())
    with torch.no_grad(), full_precision(logits):
        if logits.shape[0] == 0:
            return torch.zeros(0, dtype=torch.bool, device=logits.device)
        expected = expected_set(target, logits.shape[1])
        log_probabilities = widened(logits).log_softmax(dim=1)
        expected_total = expected.total(log_probabilities)
        return _select(log_probabilities, expected, expected_total, threshold).squeeze(1)


class PenaltyParts(NamedTuple):
    """What the penalty is made of, without gradient.

    Attributes:
        selected: over-confident samples, bool ``[M, 1]``.
        active: the selected ones that have at least two incorrect classes, bool ``[M, 1]``.
        deviation: logit minus the mean of the sample's incorrect logits, 0 at expected classes, ``[M, K]``.
        norms: Euclidean norm of each sample's deviation, ``[M, 1]``; not finite where a logit is not.
        squares: sum of the squared norms of the active samples, 0-dim: M * K times the penalty.
        expected_total: sum of the log-probabilities of each sample's expected classes, ``[M, 1]``.
    """

    selected: Tensor
    active: Tensor
    deviation: Tensor
    norms: Tensor
    squares: Tensor
    expected_total: Tensor

    def is_finite(self) -> bool:
        """Whether no NaN or infinity went in; may be False for finite but huge logits. Synchronises a GPU."""
        # Every class is in one of the two, also where all of them are expected.
        return math.isfinite((self.norms + self.expected_total).sum().item())


def measure(log_probabilities: Tensor, expected: ExpectedSet, threshold: float) -> PenaltyParts:
    """The penalty's value and its parts; call it under ``torch.no_grad()``.

    Distances to the mean do not change under a common shift of a sample's logits, so log-probabilities serve as logits.
    They also keep digits that fp32 sums over logits with a large common offset would lose.
    """
    num_classes = log_probabilities.shape[1]
    expected_total = expected.total(log_probabilities)
    selected = _select(log_probabilities, expected, expected_total, threshold)
    deviation = _deviation(log_probabilities, expected, expected_total)
    # One incorrect class is its own mean, which rounding would not make exactly 0.
    if isinstance(expected.size, int):
        active = selected if num_classes - expected.size > 1 else torch.zeros_like(selected)
    else:
        active = selected & (num_classes - expected.size > 1)
    norms = torch.linalg.vector_norm(deviation, dim=1, keepdim=True)
    active_norms = torch.where(active, norms, 0.0).flatten()
    squares = active_norms.dot(active_norms)
    return PenaltyParts(selected, active, deviation, norms, squares, expected_total)


def attach_penalty(scores: Tensor, expected: ExpectedSet, parts: PenaltyParts) -> Tensor:
    """The penalty with its gradient on ``scores [M, K]``: logits or log-probabilities. 0-dim."""
    return _Penalty.apply(scores, *expected, parts.squares, parts.deviation, parts.active)


def full_precision(logits: Tensor) -> torch.autocast:
    """A region where autocast neither narrows float64 logits nor runs widened ones in half precision."""
    return torch.autocast(device_type=logits.device.type, enabled=False)


def widened(logits: Tensor) -> Tensor:
    """``logits`` in fp32, or in fp64 if they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _select(
    log_probabilities: Tensor, expected: ExpectedSet, expected_total: Tensor, threshold: float
) -> Tensor:
    if isinstance(expected.size, int):
        selected = expected_total > math.log(threshold)
    else:
        selected = expected.total(log_probabilities.exp()) > threshold
    if threshold >= 0.5:
        return selected  # more than half of the probability is always the largest one
    is_top = expected.contains(log_probabilities.argmax(dim=1, keepdim=True))
    return selected & (is_top if isinstance(expected.size, int) else is_top | (expected.size > 1))


def _deviation(scores: Tensor, expected: ExpectedSet, expected_total: Tensor) -> Tensor:
    num_classes = scores.shape[1]
    incorrect_total = scores.sum(dim=1, keepdim=True) - expected_total
    if isinstance(expected.size, int):
        incorrect_mean = incorrect_total * (1 / max(num_classes - expected.size, 1))
    else:
        incorrect_mean = incorrect_total / (num_classes - expected.size).clamp_min(1)
    # The desired output keeps the expected logits, so their difference is exactly 0.
    return expected.clear_(scores - incorrect_mean)


class _Penalty(torch.autograd.Function):
    """Gives a penalty that is already computed its gradient.

    Replacing logits by their mean is an orthogonal projection, so the gradient of sum((O~ - O)^2) is 2 (O - O~)
    whether O~ is detached or not. Writing it down costs one pass; autograd through the steps above costs four.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scores, index, mask, size, squares, deviation, active):
        return squares * (1 / scores.numel())

    @staticmethod
    def setup_context(ctx, inputs, output):
        scores, index, mask, size, _, deviation, active = inputs
        ctx.fixed_size = size if isinstance(size, int) else None
        ctx.save_for_backward(scores, index, mask, None if isinstance(size, int) else size, deviation, active)

    @staticmethod
    def backward(ctx, gradient):
        scores, index, mask, size, deviation, active = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: the deviation must know the scores
            expected = ExpectedSet(index, mask, size if ctx.fixed_size is None else ctx.fixed_size)
            deviation = _deviation(scores, expected, expected.total(scores))
        return deviation * (active * (gradient * (2 / deviation.numel()))), *[None] * 6


class NegativeLogLikelihoodWithPenalty(torch.autograd.Function):
    """Cross-entropy of class indices and the penalty over one set of log-probabilities, with one gradient for both.

    ``apply(log_probabilities [M, K], index [M, 1], squares, deviation, active) -> (loss_ce, penalty)``, both 0-dim.
    It exists for speed: separate nodes would each write an ``[M, K]`` gradient and a third pass would add them. For
    speed as well it has the older form without ``setup_context`` (there torch inspects the signature in every call:
    0.06 ms of 0.6), which ``torch.func`` cannot transform: see :func:`can_be_fused`.
    """

    @staticmethod
    def forward(ctx, log_probabilities, index, squares, deviation, active):
        ctx.save_for_backward(log_probabilities, index, deviation, active)
        loss_ce = log_probabilities.gather(1, index).mean().neg()
        return loss_ce, squares * (1 / log_probabilities.numel())

    @staticmethod
    def backward(ctx, gradient_ce, gradient_penalty):
        log_probabilities, index, deviation, active = ctx.saved_tensors
        if torch.is_grad_enabled():
            expected = ExpectedSet(index, None, 1)
            deviation = _deviation(log_probabilities, expected, expected.total(log_probabilities))
        gradient = deviation * (active * (gradient_penalty * (2 / deviation.numel())))
        # The deviation is 0 at the expected class, so setting equals adding.
        at_label = (gradient_ce * (-1 / index.shape[0])).expand_as(index)
        return gradient.scatter_(1, index, at_label), None, None, None, None


def can_be_fused() -> bool:
    """Whether :class:`NegativeLogLikelihoodWithPenalty` may be used here: not under ``torch.func.grad``, ``vmap``, …"""
    return torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active()
