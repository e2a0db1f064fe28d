"""How much the SOSR loss costs beside plain cross-entropy, measured interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sosr_det.losses import SOSRLoss


def literal_sosr_loss(logits: Tensor, target: Tensor, threshold: float = 0.99, weight: float = 0.5) -> Tensor:
    """Eq. (1) sample by sample, as one would write it down from the paper; the slow peer of the benchmark."""
    desired = logits.clone()
    probabilities = logits.detach().softmax(dim=1)
    for row, label in enumerate(target.tolist()):
        if int(probabilities[row].argmax()) == label and float(probabilities[row, label]) > threshold:
            incorrect = torch.arange(logits.shape[1], device=logits.device) != label
            desired[row, incorrect] = logits[row, incorrect].mean()
    return F.cross_entropy(logits, target) + weight * F.mse_loss(logits, desired)


def bench_loss(
    num_samples: int = 256, num_classes: int = 1000, repeats: int = 30, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Forward and backward of each loss on one batch of which half the samples are over-confident.

    The losses take turns (A B C A B C …), so that a change of the machine's speed meets all of them.

    Args:
        num_samples, num_classes: M and K.
        repeats: rounds, at least 1; medians are reported.
        device: where to run.

    Returns:
        name -> ``median_ms`` and ``ratio_to_ce`` (median of the rounds' ratios).

    Raises:
        ValueError: fewer than one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_samples, num_classes, generator=generator)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    logits[torch.arange(0, num_samples, 2), target[::2]] += 30
    logits, target = logits.to(device).requires_grad_(), target.to(device)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "cross-entropy": F.cross_entropy,
        "SOSRLoss": SOSRLoss(),
        "literal per-sample SOSR": literal_sosr_loss,
    }
    times: dict[str, list[float]] = {name: [] for name in losses}
    for round_number in range(repeats + 2):  # two rounds of warm-up
        for name, loss in losses.items():
            logits.grad = None
            _synchronize(device)
            begin = time.perf_counter()
            loss(logits, target).backward()
            _synchronize(device)
            if round_number >= 2:
                times[name].append(time.perf_counter() - begin)
    base = times["cross-entropy"]
    return {
        name: {
            "median_ms": 1000 * statistics.median(taken),
            "ratio_to_ce": statistics.median(a / b for a, b in zip(taken, base, strict=True)),
        }
        for name, taken in times.items()
    }


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
