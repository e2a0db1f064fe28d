"""How much the SOSR loss costs beside plain cross-entropy: alone, and in a training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sosr_det.analysis.interleaved import require_device, summarise, time_interleaved
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


# The first is the base of the ratios.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "SOSRLoss": SOSRLoss(),
    "literal per-sample SOSR": literal_sosr_loss,
}


def half_overconfident_batch(num_samples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Random logits [M, K], every second sample over-confident (threshold 0.99) on its label, and labels [M]."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_samples, num_classes, generator=generator)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    logits[torch.arange(0, num_samples, 2), target[::2]] += 30
    return logits, target


def bench_loss(
    num_samples: int = 256, num_classes: int = 1000, repeats: int = 30, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Forward and backward of each loss on one batch of which half the samples are over-confident.

    Args:
        num_samples, num_classes: M and K.
        repeats: rounds, at least 1; medians are reported.
        device: where to run.

    Returns:
        name -> ``median_ms`` and ``ratio`` to cross-entropy, see :func:`sosr_det.analysis.interleaved.summarise`.

    Raises:
        ValueError: fewer than one round.
        ConfigError: no such device.
    """
    require_device(device)
    logits, target = half_overconfident_batch(num_samples, num_classes)
    logits, target = logits.to(device).requires_grad_(), target.to(device)

    def step_with(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            logits.grad = None
            loss(logits, target).backward()

        return step

    peers = {name: step_with(loss) for name, loss in LOSSES.items()}
    return summarise(time_interleaved(peers, repeats, device=device))


def bench_step(
    arch: str = "resnet50",
    batch_size: int = 8,
    image_size: int = 224,
    num_classes: int = 1000,
    repeats: int = 10,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """A whole training step (forward, loss, backward, SGD) with cross-entropy and with SOSR on one network and batch.

    Args:
        arch: see :func:`sosr_det.models.build_backbone`.
        batch_size, image_size, num_classes: M, pixels, K.
        repeats: rounds, at least 1; medians are reported.
        device: where to run.

    Returns:
        As :func:`bench_loss`.

    Raises:
        ValueError: fewer than one round.
        ConfigError: no such device or backbone.
    """
    from sosr_det.models import build_backbone

    require_device(device)
    torch.manual_seed(0)
    backbone, spec = build_backbone(arch)
    network = torch.nn.Sequential(backbone, torch.nn.Linear(spec.num_features, num_classes)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    target = torch.randint(num_classes, (batch_size,), device=device)

    def step_with(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            optimizer.zero_grad()
            loss(network(images), target).backward()
            optimizer.step()

        return step

    peers = {name: step_with(LOSSES[name]) for name in ("cross-entropy", "SOSRLoss")}
    return summarise(time_interleaved(peers, repeats, device=device))
