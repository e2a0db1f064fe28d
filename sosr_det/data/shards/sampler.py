"""An order of samples that reads shards one after the other, for storage where each jump costs."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS

from sosr_det.errors import ConfigError


@DATA_SAMPLERS.register_module()
class ShardSampler(torch.utils.data.Sampler):
    """Shuffles the shards, then the samples within a window of some of them.

    The order depends on ``(seed, epoch)``, the number of processes and nothing else. In each epoch the processes
    together take every sample exactly once: each gets one piece of the shuffled shards, so that a process reads its own
    shards and no others (two share one where their pieces meet). With ``round_up``, processes whose piece is one
    shorter repeat one of their samples, so that all have the same number.

    Less random than ``DefaultSampler``: samples of a window come near each other. Write the shards with
    ``--shuffle-seed``, so that a shard holds all classes. For validation use ``DefaultSampler(shuffle=False)``, whose
    interleaved order the evaluators expect.

    Args:
        dataset: a :class:`~sosr_det.data.shards.dataset.ShardedImages`, also within wrappers that pass its attributes.
        window_shards: how many shards are mixed, at least 1. A worker keeps as many open; with ``read_ahead_bytes``
            1 makes most of each block.
        shuffle: must be True.
        seed: of the order; None takes one that all processes agree on.
        round_up: see above. False leaves the lengths of the processes different by at most 1.

    Raises:
        ConfigError: a data set without shards, a window below 1, ``shuffle=False``.
    """

    def __init__(
        self,
        dataset: Sized,
        window_shards: int = 8,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        if window_shards < 1:
            raise ConfigError(f"window_shards must be at least 1, got {window_shards}")
        if not shuffle:
            raise ConfigError("ShardSampler is for training; use dict(type='DefaultSampler', shuffle=False).")
        self._shards = _attribute(dataset, "shard_numbers")
        positions = _attribute(dataset, "shard_positions")
        self.rank, self.world_size = get_dist_info()
        self.window_shards = window_shards
        self.seed = sync_random_seed() if seed is None else seed
        self.round_up = round_up
        self.epoch = 0
        # All samples as they lie, and where each shard begins among them.
        self._stored = np.lexsort((positions, self._shards)).astype(np.int32)
        counts = np.bincount(self._shards)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __iter__(self) -> Iterator[int]:
        return iter(self._order().tolist())

    def __len__(self) -> int:
        count = len(self._stored)
        if self.round_up:
            return -(-count // self.world_size)
        begin, end = self._piece()
        return end - begin

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def _piece(self) -> tuple[int, int]:
        count = len(self._stored)
        return self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size

    def _order(self) -> np.ndarray:
        shards = np.random.default_rng([self.seed, self.epoch]).permutation(len(self._starts) - 1)
        begin, end = self._piece()
        runs, place = [], 0
        for shard in shards:
            first, last = self._starts[shard], self._starts[shard + 1]
            low, high = max(begin - place, 0), min(end - place, last - first)
            if low < high:
                runs.append(self._stored[first + low : first + high])
            place += last - first
        # Another stream for each process, and none of them the one that the shards were shuffled with.
        draws = np.random.default_rng([self.seed, self.epoch, 1 + self.rank])
        windows = [
            draws.permutation(np.concatenate(runs[i : i + self.window_shards]))
            for i in range(0, len(runs), self.window_shards)
        ]
        order = np.concatenate(windows) if windows else self._stored[:0]
        missing = len(self) - len(order)
        return np.concatenate([order, np.resize(order if len(order) else self._stored, missing)])


def _attribute(dataset: Any, name: str) -> np.ndarray:
    while not hasattr(dataset, name):
        if not hasattr(dataset, "dataset"):
            raise ConfigError(
                f"ShardSampler needs a data set of shards (ShardedImages), and {type(dataset).__name__} is none. Use "
                "dict(type='DefaultSampler', shuffle=True)."
            )
        dataset = dataset.dataset
    values = getattr(dataset, name)
    if len(values) != len(dataset):
        raise ConfigError(
            f"ShardSampler does not know the order of a {type(dataset).__name__} around shards."
        )
    return values
