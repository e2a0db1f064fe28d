"""How fast augmented batches of small images are made on one core, beside torchvision's per-sample PIL pipeline."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import transforms

from sosr_det.analysis.interleaved import summarise, time_interleaved
from sosr_det.data.batch_augment import BatchRandomCrop, BatchRandomHorizontalFlip
from sosr_det.data.batch_erase import BatchCutout
from sosr_det.data.in_memory import InMemoryDataset, already_collated
from sosr_det.models import ClassificationPreprocessor

# CIFAR's mean and standard deviation; the values do not matter for the speed.
MEAN = (125.3, 123.0, 113.9)
STD = (63.0, 62.1, 66.7)
BATCH_SIZE = 128


def bench_augment(
    num_images: int = 2048, image_size: int = 32, repeats: int = 7
) -> dict[str, dict[str, float]]:
    """One epoch over ``num_images`` uint8 images, to normalised float32 batches of 128, with one thread.

    Both sides start from decoded images and end with the same: crop with an eighth of the size as padding, flip
    (and Cutout of a quarter of the size), normalisation, collation. torchvision's side is the customary one, image by
    image: PIL image, ``RandomCrop``, ``RandomHorizontalFlip``, ``ToTensor``, ``Normalize``, (Cutout), and
    ``default_collate``. Decoding and making PIL images of arrays, which it needs as well, are left out.

    Args:
        num_images: images per round, at least 1.
        image_size: side in pixels, at least 8.
        repeats: rounds, at least 1; medians are reported.

    Returns:
        name -> ``median_ms`` and ``ratio`` to the first, see :func:`sosr_det.analysis.interleaved.summarise`;
        ``img_per_s``; for the in-memory rows also ``speedup``: the median over the rounds of torchvision's time for the
        same steps over this one's.

    Raises:
        ValueError: fewer than one image or round, a side below 8 px.
    """
    if num_images < 1 or image_size < 8:
        raise ValueError(
            f"num_images must be at least 1 and image_size at least 8, got {num_images} and {image_size}"
        )
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, 3, image_size, image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    order = torch.randperm(num_images, generator=generator)
    batches = [part.tolist() for part in order.split(BATCH_SIZE)]
    padding, square = image_size // 8, image_size // 4
    crop_and_flip = [BatchRandomCrop(padding), BatchRandomHorizontalFlip()]
    pairs = {
        "crop + flip": (
            _per_sample_epoch(images, batches, padding, None),
            _in_memory_epoch(images, batches, crop_and_flip),
        ),
        "crop + flip + cutout": (
            _per_sample_epoch(images, batches, padding, square),
            _in_memory_epoch(images, batches, [*crop_and_flip, BatchCutout(square, MEAN)]),
        ),
    }
    peers = {}
    for steps, (per_sample, in_memory) in pairs.items():
        peers[f"torchvision PIL, {steps}"] = per_sample
        peers[f"in memory, {steps}"] = in_memory
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = time_interleaved(peers, repeats)
    finally:
        torch.set_num_threads(threads)
    rows = summarise(times)
    for name, row in rows.items():
        row["img_per_s"] = num_images / statistics.median(times[name])
    for steps in pairs:
        slow, fast = times[f"torchvision PIL, {steps}"], times[f"in memory, {steps}"]
        rows[f"in memory, {steps}"]["speedup"] = statistics.median(
            a / b for a, b in zip(slow, fast, strict=True)
        )
    return rows


class _Decoded(Dataset):
    """Images with a running number as label."""

    def __init__(self, images: Sequence[Any], transform: Callable[[Any], Tensor]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"inputs": self.transform(self.images[index]), "labels": index}


def _per_sample_epoch(
    images: Tensor, batches: list[list[int]], padding: int, cutout: int | None
) -> Callable[[], None]:
    steps = [
        transforms.RandomCrop(images.shape[-1], padding=padding),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
    ]
    if cutout is not None:
        steps.append(lambda image: _cut(image, cutout))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    dataset = _Decoded(pictures, transforms.Compose(steps))

    def epoch() -> None:
        for indices in batches:
            default_collate([dataset[index] for index in indices])

    return epoch


def _cut(image: Tensor, size: int) -> Tensor:
    """Cutout on one normalised image, by slicing (the published code multiplies with a mask, which is slower)."""
    row, column = np.random.randint(image.shape[1]), np.random.randint(image.shape[2])
    top, left = row - size // 2, column - size // 2
    image[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
    return image


def _in_memory_epoch(
    images: Tensor, batches: list[list[int]], steps: list[Callable[[Tensor], Tensor]]
) -> Callable[[], None]:
    dataset = InMemoryDataset(_Decoded(images, lambda image: image), steps)
    normalise = ClassificationPreprocessor(MEAN, STD)

    def epoch() -> None:
        for indices in batches:
            normalise(already_collated(dataset.__getitems__(indices)), training=True)

    return epoch
