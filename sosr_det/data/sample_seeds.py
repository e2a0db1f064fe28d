"""Augmentation that depends on the seed, the epoch and the sample, and on nothing else.

Usually the random numbers of a sample are what its worker process has got to: they depend on the number of workers, on
what the worker prepared before, without workers on every random number that the model has drawn, and after a resumption
they begin anew. Then two runs of one seed need not see the same images.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS

from sosr_det.data.dataset_wrapper import DatasetWrapper
from sosr_det.errors import ConfigError

_NOT_SET = -1


class EpochIndex(int):
    """The index of a sample that knows the epoch it is drawn for.

    A batch sampler that gives these needs no word with the worker processes: they may be several batches ahead of the
    training, or outlive an epoch, and still augment each sample as its own epoch asks.

    Args:
        value: the index.
        epoch: number of finished epochs, at least 0; in training that counts steps, of finished steps.
    """

    epoch: int

    def __new__(cls, value: int, epoch: int) -> EpochIndex:
        index = super().__new__(cls, value)
        index.epoch = epoch
        return index

    def __reduce__(self) -> tuple:
        return EpochIndex, (int(self), self.epoch)


@DATASETS.register_module()
class SampleSeededDataset(DatasetWrapper):
    """Seeds Python's, NumPy's and torch's (CPU) generators before a data set prepares a sample, and restores them.

    Wraps the training data as a whole, any wrappers included. Everything but preparing samples is the inner data set's:
    its length, ``metainfo``, ``get_data_info``, … A data set that prepares whole batches (``__getitems__``, as
    :class:`sosr_det.data.in_memory.InMemoryDataset` does) is seeded once for each batch, from all of its indices, so
    its augmentation depends on the batch size, too; others are seeded sample by sample.

    Without worker processes the generators are the model's as well, which is why their states are restored; in a worker
    process they are nobody else's, and stay.

    What a transform keeps from earlier samples (``CachedMosaic``) is not undone by this: it stays the same only as
    long as the same process prepares the same samples in the same order.

    `sosr-det train` puts it around every training set, and gives it indices that know their epoch
    (:class:`EpochIndex`). A loop of one's own with plain indices calls :meth:`set_epoch` before each epoch.

    Args:
        dataset: the data set or its config.
        seed: of the run, at least 0; None if :meth:`set_epoch` says it.

    Raises:
        ConfigError: while samples are prepared, if seed or epoch were never told.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        super().__init__(dataset)
        # In shared memory: worker processes that outlive an epoch must learn of the next one.
        self._place = torch.full((2,), _NOT_SET, dtype=torch.int64).share_memory_()
        if seed is not None:
            self._place[0] = seed

    def set_epoch(self, seed: int, epoch: int) -> None:
        """Say what the next samples belong to; worker processes know it from then on.

        Args:
            seed: of the run, at least 0.
            epoch: number of finished epochs, at least 0.
        """
        if seed < 0 or epoch < 0:
            raise ValueError(f"seed and epoch must be at least 0, got {seed} and {epoch}")
        self._place.copy_(torch.tensor([seed, epoch]))

    def __getitem__(self, index: int) -> Any:
        with self._seeded([index]):
            return self.dataset[int(index)]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The samples of a batch, or the whole batch where the inner data set prepares whole ones."""
        whole = getattr(self.dataset, "__getitems__", None)
        if whole is None:
            return [self[index] for index in indices]
        with self._seeded(indices):
            return whole([int(index) for index in indices])

    def _seeded(self, indices: Sequence[int]) -> Any:
        seed, epoch = self._place.tolist()
        epoch = getattr(indices[0], "epoch", epoch) if len(indices) else epoch
        if seed == _NOT_SET or epoch == _NOT_SET:
            raise ConfigError(
                "SampleSeededDataset does not know the seed and the epoch: `sosr-det train` says them; in a loop of "
                "your own, call set_epoch(seed, epoch) before each epoch."
            )
        origin = ("sample", seed, epoch, *(int(index) for index in indices))
        if torch.utils.data.get_worker_info() is None:
            return seeded(*origin)
        seed_all(*origin)
        return nullcontext()


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
    digest = _digest(*origin)
    random.seed(int.from_bytes(digest[:8], "little"))
    np.random.seed(int.from_bytes(digest[8:12], "little"))  # 2 microseconds; with more words 18
    number = int.from_bytes(digest[24:], "little") >> 1
    torch.default_generator.manual_seed(number)
    return number


def seed_number(*origin: str | int) -> int:
    """63 bits made from ``origin``, to seed a generator with; the same that :func:`seed_all` returns."""
    return int.from_bytes(_digest(*origin)[24:], "little") >> 1


def _digest(*origin: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, origin)).encode()).digest()
