"""Small-image data sets decoded once, held as uint8 and augmented batch by batch."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS, FUNCTIONS
from torch import Tensor

from sosr_det.data.memory import available_memory_bytes
from sosr_det.data.transforms import build_pipeline
from sosr_det.data.unreadable import find_unreadable
from sosr_det.errors import ConfigError, DataError

_SECONDS_BETWEEN_PROGRESS_LINES = 5.0
_IMAGES_PER_TASK = 256


class CollatedBatch(dict):
    """A finished batch; says so to a collate function that takes it for a list of samples."""

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, int):
            raise ConfigError(
                "InMemoryDataset gives whole batches: set collate_fn=dict(type='already_collated') in the data "
                "loader's config (in plain PyTorch, collate_fn=sosr_det.data.in_memory.already_collated)."
            )
        raise KeyError(key)


@FUNCTIONS.register_module()
def already_collated(batch: Any) -> dict[str, Tensor]:
    """The collate function for :class:`InMemoryDataset`, whose batches need none.

    Raises:
        ConfigError: a list of single samples, which another data set or a wrapper around this one gives.
    """
    if not isinstance(batch, CollatedBatch):
        raise ConfigError(
            "collate_fn 'already_collated' is for InMemoryDataset alone, and this data set gives single samples "
            f"({type(batch).__name__} of {len(batch)}). Use collate_fn=dict(type='default_collate'); a wrapper such as "
            "ConcatDataset around an InMemoryDataset also works with that one, only slower."
        )
    return dict(batch)


@DATASETS.register_module()
class InMemoryDataset(torch.utils.data.Dataset):
    """Holds another classification data set's images as one uint8 tensor and augments whole batches of them.

    A data loader asks for a whole batch at once (``__getitems__``), so its ``collate_fn`` must be
    ``dict(type='already_collated')``. Worker processes share the images, whether they are forked or spawned; in
    distributed training each process holds its own.

    Args:
        dataset: config of a data set (or the data set) that yields ``dict(inputs=uint8 [3, H, W], labels=int)``, all
            images of one size. Its pipeline runs once, when the images are read, so it must not draw random numbers.
        batch_pipeline: steps of :mod:`sosr_det.data.batch_augment` (configs or callables), each from uint8
            ``[B, 3, H, W]`` to the same. Empty for evaluation. Random numbers are torch's.
        num_threads: threads that decode; 0 means one for each core that this process may use.

    Attributes:
        images: uint8 ``[N, 3, H, W]``.
        labels: int64 ``[N]``.

    Raises:
        DataError: an image of another size than the first (named), one that cannot be decoded, not enough memory.
        ConfigError: a random step in the inner pipeline, something that is not a data set.
    """

    def __init__(
        self,
        dataset: dict | torch.utils.data.Dataset,
        batch_pipeline: Sequence[dict | Callable[[Tensor], Tensor]] = (),
        num_threads: int = 0,
    ) -> None:
        if num_threads < 0:
            raise ConfigError(f"num_threads must be 0 (one for each core) or more, got {num_threads}")
        source = DATASETS.build(dict(dataset)) if isinstance(dataset, dict) else dataset
        self.batch_transform = build_pipeline(batch_pipeline)
        self.metainfo = dict(getattr(source, "metainfo", None) or {})
        self.classes = list(self.metainfo.get("classes", ()))
        self._fingerprint = source.fingerprint() if hasattr(source, "fingerprint") else None
        self.unreadable = find_unreadable(source)
        self.images, self.labels = _decode_all(source, num_threads or len(_own_cores()))

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str | None:
        """The inner data set's: the same files in memory are the same data. None where it has none."""
        return self._fingerprint

    def __getitem__(self, index: int) -> dict:
        """One augmented sample, ``dict(inputs=uint8 [3, H, W], labels=int)``."""
        batch = self.__getitems__([index])
        return {"inputs": batch["inputs"][0], "labels": int(batch["labels"][0])}

    def __getitems__(self, indices: Sequence[int]) -> CollatedBatch:
        """The augmented batch, ``dict(inputs=uint8 [B, 3, H, W], labels=int64 [B])``, in the order of ``indices``."""
        rows = np.asarray(indices, dtype=np.int64)
        images = torch.from_numpy(self.images.numpy()[rows])
        return CollatedBatch(inputs=self.batch_transform(images), labels=self.labels[rows])


def _own_cores() -> set[int] | range:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _decode_all(source: Any, num_threads: int) -> tuple[Tensor, Tensor]:
    count = len(source)
    if count == 0:
        raise DataError(f"{type(source).__name__} is empty: there is nothing to hold in memory")
    shape = list(_read_first(source).shape)
    _require_memory(count, shape)
    images = torch.empty((count, *shape), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    progress = _Progress(count)

    def decode(first: int) -> None:
        for index in range(first, min(first + _IMAGES_PER_TASK, count)):
            sample = source[index]
            _require_image(source, index, sample["inputs"], shape)
            images[index] = sample["inputs"]
            labels[index] = int(sample["labels"])
        progress.add(min(_IMAGES_PER_TASK, count - first))

    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    try:
        # Results are taken in order, so the first bad image is the one that is told.
        for _ in executor.map(decode, range(0, count, _IMAGES_PER_TASK)):
            pass
    finally:
        executor.shutdown(cancel_futures=True)
    progress.finish(images)
    return images, labels


def _read_first(source: Any) -> Tensor:
    """The first image, once it is certain that reading it drew no random number: one draw would serve all epochs."""
    before = _random_states()
    image = source[0]["inputs"]
    if _random_states() != before:
        raise ConfigError(
            f"the pipeline of the {type(source).__name__} inside InMemoryDataset draws random numbers. It runs only "
            "once, so every epoch would see the same draw: move the random steps to batch_pipeline."
        )
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"InMemoryDataset holds uint8 RGB images [3, H, W], but {type(source).__name__} gives {found}; leave "
            "conversion and normalisation to the model's preprocessor."
        )
    return image


def _random_states() -> tuple[bytes, Any, bytes]:
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        numpy_state[1].tobytes() + bytes(str(numpy_state[2:]), "ascii"),
    )


def _require_image(source: Any, index: int, image: Tensor, shape: list[int]) -> None:
    if list(image.shape) == shape and image.dtype == torch.uint8:
        return
    name = source.sample_name(index) if hasattr(source, "sample_name") else f"image {index}"
    raise DataError(
        f"{name} is {image.dtype} {list(image.shape)}, while the first image is torch.uint8 {shape}: one tensor cannot "
        "hold both. Add a resize to one size to the inner data set's pipeline, for example "
        f"dict(type='torchvision/Resize', size=({shape[1]}, {shape[2]})), or use the data set without InMemoryDataset."
    )


def _require_memory(count: int, shape: list[int]) -> None:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    needed = processes * count * int(np.prod(shape))
    available = available_memory_bytes()
    if available is not None and needed > available:
        copies = f" in each of {processes} processes" if processes > 1 else ""
        raise DataError(
            f"{count} images {shape} as uint8{copies} take {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB of "
            "memory are available. Use the inner data set directly, with default_collate and more workers, or smaller "
            "images."
        )


class _Progress:
    """A line in the log every few seconds, from whichever thread gets there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.begin = self.told = time.monotonic()
        self.lock = threading.Lock()

    def add(self, number: int) -> None:
        with self.lock:
            self.done += number
            if time.monotonic() - self.told < _SECONDS_BETWEEN_PROGRESS_LINES or self.done == self.count:
                return
            self.told = time.monotonic()
            rate = self.done / (self.told - self.begin)
        print_log(f"decoded {self.done} of {self.count} images, {rate:.0f} img/s", logger="current")

    def finish(self, images: Tensor) -> None:
        if self.told == self.begin:  # a small set is there at once, and needs no line
            return
        seconds = time.monotonic() - self.begin
        print_log(
            f"holding {self.count} images {list(images.shape[1:])} in memory, {images.nbytes / 1e6:.0f} MB, "
            f"decoded in {seconds:.1f} s",
            logger="current",
        )
