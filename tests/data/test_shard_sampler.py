"""The order that reads shards one after the other: every sample once, the same for one (seed, epoch)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sosr_det.data.shards import sampler as sampler_module
from sosr_det.data.shards.sampler import ShardSampler
from sosr_det.errors import ConfigError


class Stored:
    """103 samples in seven shards of different sizes, stored in a shuffled order."""

    def __init__(self) -> None:
        sizes = [20, 20, 20, 20, 15, 7, 1]
        order = np.random.default_rng(0).permutation(sum(sizes))
        self.shard_numbers = np.zeros(sum(sizes), np.int32)
        self.shard_positions = np.zeros(sum(sizes), np.uint64)
        self.shard_numbers[order] = np.repeat(np.arange(7), sizes)
        self.shard_positions[order] = np.concatenate([np.arange(size) * 512 for size in sizes])

    def __len__(self) -> int:
        return len(self.shard_numbers)


class Wrapper:
    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


@pytest.fixture
def orders(monkeypatch):
    """``orders(world_size, epoch, **options)``: the order of each process."""

    def give(world_size: int, epoch: int = 0, dataset=None, **options) -> list[list[int]]:
        found = []
        for rank in range(world_size):
            monkeypatch.setattr(sampler_module, "get_dist_info", lambda rank=rank: (rank, world_size))
            sampler = ShardSampler(dataset or Stored(), **{"seed": 3, "window_shards": 2, **options})
            sampler.set_epoch(epoch)
            order = list(sampler)
            assert len(order) == len(sampler)
            found.append(order)
        return found

    return give


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("window_shards", [1, 2, 100])
def test_every_sample_comes_exactly_once(orders, world_size, window_shards):
    found = orders(world_size, round_up=False, window_shards=window_shards)
    assert Counter(index for order in found for index in order) == dict.fromkeys(range(103), 1)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    padded = orders(world_size, window_shards=window_shards)
    assert {len(order) for order in padded} == {-(-103 // world_size)}
    assert {index for order in padded for index in order} == set(range(103))
    for short, long in zip(found, padded, strict=True):
        assert long[: len(short)] == short
        assert set(long) == set(short)


def test_more_processes_than_samples(orders):
    class Few:
        shard_numbers = np.zeros(2, np.int32)
        shard_positions = np.arange(2, dtype=np.uint64)

        def __len__(self) -> int:
            return 2

    found = orders(5, dataset=Few())
    assert [len(order) for order in found] == [1] * 5
    assert {index for order in found for index in order} == {0, 1}


def test_the_order_is_that_of_seed_and_epoch(orders):
    assert orders(2, 1) == orders(2, 1)
    assert orders(2, 1) != orders(2, 2)
    assert orders(2, 1) != orders(2, 1, seed=4)
    assert orders(1)[0] != sorted(orders(1)[0])


def test_windows_hold_whole_shards_and_are_shuffled(orders):
    shards = Stored().shard_numbers
    (order,) = orders(1, window_shards=2)
    seen, place = [], 0
    while place < len(order):  # a window ends where another pair of shards begins
        window = {int(shards[order[place]])}
        end = place
        while end < len(order) and (len(window | {int(shards[order[end]])}) <= 2):
            window.add(int(shards[order[end]]))
            end += 1
        members = np.flatnonzero(np.isin(shards, list(window)))
        assert sorted(order[place:end]) == members.tolist()
        seen.append(frozenset(window))
        place = end
    assert sum(map(len, seen)) == 7
    first = [shards[index] for index in orders(1, window_shards=1)[0]]
    assert int(np.count_nonzero(np.diff(first))) == 6  # one after the other
    positions = Stored().shard_positions
    within = [int(positions[i]) for i in orders(1, window_shards=1)[0] if shards[i] == 0]
    assert within != sorted(within)


def test_a_process_reads_its_own_shards(orders):
    shards = Stored().shard_numbers
    found = orders(3, round_up=False)
    touched = Counter(shard for order in found for shard in {int(shards[index]) for index in order})
    assert sum(touched.values()) <= 7 + 2  # two pieces meet twice


def test_wrappers_and_mistakes(orders):
    assert orders(1, dataset=Wrapper(Wrapper(Stored()))) == orders(1)
    with pytest.raises(ConfigError, match="needs a data set of shards"):
        ShardSampler(Wrapper([1, 2]), seed=0)
    short = Wrapper(Stored())
    short.shard_numbers = np.zeros(5, np.int32)
    with pytest.raises(ConfigError, match="does not know the order"):
        ShardSampler(short, seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        ShardSampler(Stored(), window_shards=0)
    with pytest.raises(ConfigError, match="DefaultSampler"):
        ShardSampler(Stored(), shuffle=False)
