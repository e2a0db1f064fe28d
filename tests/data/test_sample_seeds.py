"""Samples that depend on (seed, epoch, index) alone: with any number of workers, in any wrapper, after anything."""

from __future__ import annotations

import copy
import pickle
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, DefaultSampler, RepeatDataset
from torch.utils.data import DataLoader

from sosr_det.data.in_memory import InMemoryDataset, already_collated
from sosr_det.data.sample_seeds import SampleSeededDataset, seeded
from sosr_det.engine.provenance import dataset_record
from sosr_det.errors import ConfigError


class Noisy(torch.utils.data.Dataset):
    """Every sample draws from all three generators, more often the larger its index."""

    metainfo: ClassVar[dict] = {"classes": ("a", "b")}

    def __init__(self, count=6):
        self.count = count

    def __len__(self):
        return self.count

    def fingerprint(self):
        return "f" * 64

    def get_data_info(self, index):
        return {"height": index}

    def __getitem__(self, index):
        draws = [
            [index, random.random(), float(np.random.rand()), torch.rand(()).item()] for _ in range(index + 1)
        ]
        return torch.tensor(draws[-1], dtype=torch.float64)


class NoisyRecords(BaseDataset):
    """The same as one of mmengine's data sets, whose wrappers want no other."""

    METAINFO: ClassVar[dict] = {"classes": ("a", "b")}

    def load_data_list(self):
        return [{"number": number} for number in range(4)]

    def prepare_data(self, index):
        return torch.tensor([index, np.random.rand(), random.random()], dtype=torch.float64)


def epochs(dataset, workers, *, seed=3, first=0, count=2, persistent=True):
    sampler = DefaultSampler(dataset, shuffle=True, seed=seed)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
    )
    found = []
    for epoch in range(first, first + count):
        dataset.set_epoch(seed, epoch)
        sampler.set_epoch(epoch)
        torch.rand(epoch + 7)  # as a model does
        found.append(torch.cat(list(loader)))
    return found


@pytest.mark.parametrize(("workers", "persistent"), [(2, True), (1, False)])
def test_workers_change_nothing(workers, persistent):
    alone = epochs(SampleSeededDataset(Noisy()), 0)
    several = epochs(SampleSeededDataset(Noisy()), workers, persistent=persistent)
    for a, b in zip(alone, several, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(alone[0][alone[0][:, 0].sort().indices], alone[1][alone[1][:, 0].sort().indices])


def test_without_the_wrapper_workers_do_change_it():
    """The control: the same loop over the data set itself."""

    class Unseeded(Noisy):
        def set_epoch(self, seed, epoch):
            if epoch == 0:
                torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)

    assert not torch.equal(epochs(Unseeded(), 0)[0], epochs(Unseeded(), 2)[0])


def test_a_later_epoch_needs_no_earlier_ones():
    dataset = SampleSeededDataset(Noisy())
    torch.testing.assert_close(epochs(dataset, 0)[1], epochs(dataset, 0, first=1, count=1)[0], rtol=0, atol=0)


def test_seed_epoch_and_index_all_matter():
    dataset = SampleSeededDataset(Noisy())
    seen = set()
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (11, 0), (1, 10)):
        dataset.set_epoch(seed, epoch)
        seen |= {tuple(dataset[index][1:].tolist()) for index in range(6)}
    assert len(seen) == 30
    dataset.set_epoch(0, 0)
    first = dataset[4]
    dataset[5]
    assert torch.equal(dataset[4], first)


def states():
    numpy_state = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().tolist()


def test_the_models_generators_are_left_as_they_were():
    dataset = SampleSeededDataset(Noisy())
    dataset.set_epoch(0, 0)
    before = states()
    dataset[3]
    dataset.__getitems__([1, 2])
    assert states() == before
    with pytest.raises(ZeroDivisionError), seeded("x"):
        torch.rand(3).tolist()[1 // 0]
    assert states() == before


@pytest.mark.parametrize("wrapper", ["repeat", "concat"])
def test_around_mmengines_wrappers(wrapper):
    inner = NoisyRecords(lazy_init=True)
    wrapped = RepeatDataset(inner, times=2) if wrapper == "repeat" else ConcatDataset([inner, NoisyRecords()])
    dataset = SampleSeededDataset(wrapped)
    dataset.full_init()
    assert len(dataset) == 8
    assert dataset.metainfo["classes"] == ("a", "b")
    assert dataset.get_data_info(5)["sample_idx"] == 1
    assert dataset_record(dataset)["type"] == "NoisyRecords"
    assert dataset_record(dataset)["num_samples"] == 8
    alone, several = epochs(dataset, 0, count=1), epochs(dataset, 2, count=1)
    torch.testing.assert_close(alone, several, rtol=0, atol=0)
    rows = {tuple(row[1:].tolist()) for row in alone[0]}
    assert len(rows) == 8  # the second time an image comes up it is augmented anew


class Plain(Noisy):
    def __getitem__(self, index):
        return {"inputs": torch.full((3, 4, 4), index, dtype=torch.uint8), "labels": index % 2}


def test_whole_batches_in_memory():
    def noise(images):
        return images + torch.randint(0, 100, images.shape, dtype=torch.uint8)

    def batches(workers, size=2):
        dataset = SampleSeededDataset(InMemoryDataset(Plain(), [noise], num_threads=1))
        dataset.set_epoch(1, 0)
        loader = DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=already_collated)
        return torch.cat([batch["inputs"] for batch in loader])

    assert torch.equal(batches(0), batches(2))
    assert not torch.equal(batches(0), batches(0, size=3))  # as the docstring says


def test_what_it_forwards_and_what_not():
    dataset = SampleSeededDataset({"type": "SampleSeededDataset", "dataset": Noisy()})  # built from a config
    assert dataset.fingerprint() == "f" * 64
    assert dataset_record(dataset) == {
        "type": "Noisy", "num_samples": 6, "classes": ["a", "b"], "fingerprint": "f" * 64
    }  # fmt: skip
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = dataset.nothing_like_it
    assert not hasattr(dataset, "full_init")
    dataset.set_epoch(1, 2)
    dataset.dataset.set_epoch(1, 2)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3], dataset[3])
    assert torch.equal(copy.deepcopy(dataset)[3], dataset[3])


def test_it_says_what_is_missing():
    with pytest.raises(ConfigError, match="set_epoch"):
        SampleSeededDataset(Noisy())[0]
    with pytest.raises(ValueError, match="at least 0"):
        SampleSeededDataset(Noisy()).set_epoch(-1, 0)
