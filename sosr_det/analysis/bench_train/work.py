"""The work that all contenders do: one architecture, one set of first weights, the same batches, SGD with momentum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sosr_det.errors import ConfigError
from sosr_det.models import build_backbone


@dataclass(frozen=True)
class Work:
    """One training task.

    Attributes:
        name: key of :data:`WORKS`.
        config: the shipped recipe that our engine runs, with the data replaced.
        arch: as :func:`sosr_det.models.build_backbone` takes it.
        image_size_px: pixels per side.
        batch_size: images per step.
        num_classes: K.
        num_batches: distinct batches; they come again in the same order.
        mean, std: RGB, on the 0-255 scale.
    """

    name: str
    config: str
    arch: str
    image_size_px: int
    batch_size: int
    num_classes: int
    num_batches: int = 4
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    device: str = "cpu"


# name -> the work, and its batch size on a GPU
WORKS: dict[str, tuple[Work, int]] = {
    "cifar": (Work("cifar", "pretrain/resnet20_ce_1xb64-30e_cifar10-sample", "resnet20", 32, 64, 10), 128),
    "imagenet": (Work("imagenet", "pretrain/resnet50_ce_8xb32-90e_in1k", "resnet50", 224, 8, 1000), 64),
}


def find_work(name: str, device: str = "cpu", batch_size: int | None = None) -> Work:
    """A work of :data:`WORKS` on a device, with another batch size where one is given.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in WORKS:
        raise ConfigError(f"--work must be one of {', '.join(WORKS)}, got {name!r}")
    work, on_gpu = WORKS[name]
    size = batch_size or (work.batch_size if device == "cpu" else on_gpu)
    return replace(work, batch_size=size, device=device)


class Network(nn.Module):
    """Backbone and linear head without any engine; named as in :class:`sosr_det.models.BackboneClassifier`."""

    def __init__(self, arch: str, num_classes: int) -> None:
        super().__init__()
        self.backbone, spec = build_backbone(arch)
        self.head = nn.Linear(spec.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float images ``[M, 3, H, W]`` -> logits ``[M, K]``."""
        return self.head(self.backbone(images))


def build_network(work: Work) -> Network:
    """The network with the first weights that all contenders start from, on the work's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(work.arch, work.num_classes)
    return network.to(work.device)


def make_batches(work: Work) -> list[tuple[Tensor, Tensor]]:
    """``num_batches`` pairs of random images uint8 ``[M, 3, H, W]`` and labels int64 ``[M]``, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    shape = (work.batch_size, 3, work.image_size_px, work.image_size_px)
    return [
        (
            torch.randint(256, shape, dtype=torch.uint8, generator=generator),
            torch.randint(work.num_classes, (work.batch_size,), generator=generator),
        )
        for _ in range(work.num_batches)
    ]


def device_batches(work: Work) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches again and again, moved to the device and normalised there as our preprocessor does it.

    How a peer's loader would normalise is not part of the comparison of loops; this is the quickest way we know.
    """
    mean = torch.tensor(work.mean, device=work.device).view(1, 3, 1, 1)
    std = torch.tensor(work.std, device=work.device).view(1, 3, 1, 1)
    for images, labels in itertools.cycle(make_batches(work)):
        images = images.to(work.device).to(torch.float32).sub_(mean).div_(std)
        yield images, labels.to(work.device)
