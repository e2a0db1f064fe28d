"""``sigmoid_focal_loss_*`` and ``softmax_focal_loss_*`` of ``mmcv._ext``, on any device.

Source: https://arxiv.org/abs/1708.02002 and mmcv/ops/csrc/common/cuda/{sigmoid,softmax}_focal_loss_cuda_kernel.cuh.
The compiled op exists for CUDA only; its fp32 logarithm saturates at log(FLT_MIN) = -87.3 as soon as a probability
rounds to 0 or 1. Here log-probabilities come from ``logsigmoid`` and stay exact.
"""

import torch
import torch.nn.functional as F

from sosr_det.compat.precision import working_dtype


def sigmoid_focal_loss_forward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the focal loss of every sample and class into ``output``.

    Args:
        input: [N, C] logits, N = 0 allowed.
        target: [N] int64 labels; a label outside 0..C-1 (C by convention) is background, negative for every class.
        weight: [C] factor per label, or empty for none. With factors, a background label is an IndexError.
        output: Output, [N, C].
        gamma: Focusing exponent, >= 0; 0 is weighted cross entropy.
        alpha: Factor of the positive class in 0..1; the negatives get 1 - alpha.
    """
    logits = input.to(working_dtype(input))
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability).pow(gamma) * F.logsigmoid(logits)
    negative = -(1 - alpha) * probability.pow(gamma) * F.logsigmoid(-logits)
    output.copy_(_choose_and_weigh(positive, negative, target, weight))


def sigmoid_focal_loss_backward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    grad_input: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of :func:`sigmoid_focal_loss_forward` by each logit into ``grad_input`` [N, C]."""
    logits = input.to(working_dtype(input))
    p = logits.sigmoid()
    positive = -alpha * (1 - p).pow(gamma) * (1 - p - gamma * p * F.logsigmoid(logits))
    negative = -(1 - alpha) * p.pow(gamma) * (gamma * (1 - p) * F.logsigmoid(-logits) - p)
    grad_input.copy_(_choose_and_weigh(positive, negative, target, weight))


def softmax_focal_loss_forward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write -alpha (1 - p)^gamma log(p) of every sample into ``output``, p the probability of its label.

    Args:
        input: [N, C] probabilities (mmcv applies the softmax), N = 0 allowed.
        target: [N] int64 labels; a negative one is ignored (loss 0).
        weight: [C] factor per label, or empty for none.
        output: Output, [N].
        gamma: Focusing exponent, >= 0.
        alpha: Factor of the whole loss.
    """
    p = _probability_of_target(input, target)
    loss = -alpha * (1 - p).pow(gamma) * _log(p)
    output.copy_(_weigh_and_ignore(loss, target, weight))


def softmax_focal_loss_backward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    buff: torch.Tensor,
    grad_input: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of :func:`softmax_focal_loss_forward` by each logit into ``grad_input`` [N, C].

    ``buff`` [N] receives the factor that all logits of a sample share.
    """
    p = _probability_of_target(input, target)
    # (1 - p)^(gamma - 1) log(p) is infinity times 0 at p = 1 for gamma < 1; the limit of the product is 0.
    focusing = torch.where(p < 1, gamma * (1 - p).pow(gamma - 1) * p * _log(p), 0)
    shared = _weigh_and_ignore(alpha * (focusing - (1 - p).pow(gamma)), target, weight)
    buff.copy_(shared)
    grad_input.copy_(shared[:, None] * (_is_target(input, target).to(shared.dtype) - input))


def _is_target(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=input.device)


def _choose_and_weigh(
    positive: torch.Tensor, negative: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    chosen = torch.where(_is_target(positive, target), positive, negative)
    return chosen * weight.index_select(0, target)[:, None] if weight.numel() else chosen


def _probability_of_target(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return input.to(working_dtype(input)).gather(1, target.clamp(min=0)[:, None])[:, 0]


def _log(probability: torch.Tensor) -> torch.Tensor:
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _weigh_and_ignore(value: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if weight.numel():
        value = value * weight.index_select(0, target.clamp(min=0))
    return torch.where(target >= 0, value, 0)
