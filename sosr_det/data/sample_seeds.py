"""Augmentation that depends on the seed, the epoch and the sample, and on nothing else.

Usually the random numbers of a sample are what its worker process has got to: they depend on the number of workers, on
what the worker prepared before, without workers on every random number that the model has drawn, and after a resumption
they begin anew. Then two runs of one seed need not see the same images.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS

from sosr_det.errors import ConfigError

_NOT_SET = -1


@DATASETS.register_module()
class SampleSeededDataset(torch.utils.data.Dataset):
    """Seeds Python's, NumPy's and torch's (CPU) generators before a data set prepares a sample, and restores them.

    Wraps the training data as a whole, any wrappers included. Everything but preparing samples is the inner data set's:
    its length, ``metainfo``, ``get_data_info``, … A data set that prepares whole batches (``__getitems__``, as
    :class:`sosr_det.data.in_memory.InMemoryDataset` does) is seeded once for each batch, from all of its indices, so
    its augmentation depends on the batch size, too; others are seeded sample by sample.

    Without worker processes the generators are the model's as well, which is why their states are restored.

    What a transform keeps from earlier samples (``CachedMosaic``) is not undone by this: it stays the same only as
    long as the same process prepares the same samples in the same order.

    Args:
        dataset: the data set or its config.

    Raises:
        ConfigError: while samples are prepared, if :meth:`set_epoch` was not called.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        # In shared memory: worker processes that outlive an epoch must learn of the next one.
        self._place = torch.full((2,), _NOT_SET, dtype=torch.int64).share_memory_()

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Say what the next samples belong to; worker processes know it from then on.

        Args:
            seed: of the run, at least 0.
            epoch: number of finished epochs, at least 0.
        """
        if seed < 0 or epoch < 0:
            raise ValueError(f"seed and epoch must be at least 0, got {seed} and {epoch}")
        self._place.copy_(torch.tensor([seed, epoch]))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with self._seeded([index]):
            return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The samples of a batch, or the whole batch where the inner data set prepares whole ones."""
        whole = getattr(self.dataset, "__getitems__", None)
        if whole is None:
            return [self[index] for index in indices]
        with self._seeded(indices):
            return whole(indices)

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not found here. Copying and unpickling ask before there is an inner data set.
        if name == "dataset" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _seeded(self, indices: Sequence[int]) -> Any:
        seed, epoch = self._place.tolist()
        if seed == _NOT_SET:
            raise ConfigError(
                "SampleSeededDataset does not know the seed and the epoch: it goes with BatchDigestHook, which "
                "`sosr-det train --paired` adds; in a loop of your own, call set_epoch(seed, epoch) before each epoch."
            )
        return seeded("sample", seed, epoch, *(int(index) for index in indices))


@contextmanager
def seeded(*origin: str | int) -> Iterator[None]:
    """Seed the CPU generators from ``origin`` for a while; afterwards they are as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*origin)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_all(*origin: str | int) -> int:
    """Seed Python's, NumPy's and torch's CPU generator from ``origin``, each differently; returns 63 bits for others.

    torch's generators of other devices are left alone (``torch.manual_seed`` would reseed them as well).
    """
    digest = hashlib.sha256("/".join(map(str, origin)).encode()).digest()
    random.seed(digest[:8])
    np.random.seed(np.frombuffer(digest[8:24], "<u4"))
    number = int.from_bytes(digest[24:], "little") >> 1
    torch.default_generator.manual_seed(number)
    return number
