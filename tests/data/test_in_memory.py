"""InMemoryDataset: the inner data set's images, whole batches through PyTorch's and mmengine's loaders, loud errors."""

from __future__ import annotations

import io
import os
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate as mmengine_default_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate

import sosr_det.register  # noqa: F401
from sosr_det.data import in_memory
from sosr_det.data.batch_augment import BatchRandomCrop, BatchRandomHorizontalFlip
from sosr_det.data.in_memory import InMemoryDataset, already_collated
from sosr_det.errors import ConfigError, DataError

AUGMENT = [{"type": "BatchRandomCrop", "padding": 4}, {"type": "BatchRandomHorizontalFlip"}]


@pytest.fixture
def folders(tmp_path):
    """Three classes of seven 16 px images, in ImageNet's layout."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b", "c"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(7):
                array = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(array).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def inner(folders, **changes):
    return {"type": "ImageNetFolder", "data_root": str(folders), "split": "train", "pipeline": [], **changes}


def in_memory_config(folders, batch_pipeline=()):
    return {"type": "InMemoryDataset", "dataset": inner(folders), "batch_pipeline": list(batch_pipeline)}


def test_it_is_the_inner_data_set(folders):
    source = DATASETS.build(inner(folders))
    held = DATASETS.build(in_memory_config(folders))
    assert len(held) == len(source) == 21
    assert (held.metainfo, held.classes, held.fingerprint()) == (
        source.metainfo,
        source.classes,
        source.fingerprint(),
    )
    assert held.images.dtype == torch.uint8
    for index in range(21):
        assert torch.equal(held[index]["inputs"], source[index]["inputs"])
        assert held[index]["labels"] == source[index]["labels"]
        assert type(held[index]["labels"]) is int


@pytest.mark.parametrize("threads", [1, 3])
def test_many_tasks_keep_the_order(folders, monkeypatch, threads):
    monkeypatch.setattr(in_memory, "_IMAGES_PER_TASK", 2)
    source = DATASETS.build(inner(folders))
    held = InMemoryDataset(source, num_threads=threads)
    assert torch.equal(held.images, torch.stack([source[i]["inputs"] for i in range(21)]))
    assert held.labels.tolist() == [source[i]["labels"] for i in range(21)]


def test_batches_keep_the_order_of_their_indices(folders):
    held = InMemoryDataset(inner(folders))
    batch = held.__getitems__([20, 3, 3, 0])
    assert torch.equal(batch["inputs"], held.images[[20, 3, 3, 0]])
    assert batch["labels"].tolist() == [2, 0, 0, 0]
    assert batch["labels"].dtype == torch.int64
    assert held[-1]["labels"] == 2
    with pytest.raises(IndexError):
        held[21]


def test_augmentation_never_reaches_the_held_images(folders):
    held = DATASETS.build(
        in_memory_config(folders, [*AUGMENT, {"type": "BatchCutout", "size": 4, "fill": 0}])
    )
    before = held.images.clone()
    torch.manual_seed(0)
    assert not torch.equal(held.__getitems__(range(21))["inputs"], before)
    assert torch.equal(held.images, before)
    in_place = InMemoryDataset(inner(folders), [lambda batch: batch.zero_()])
    assert in_place.__getitems__([1])["inputs"].sum() == 0
    assert torch.equal(in_place.images, before)


def test_a_batch_is_the_steps_on_the_gathered_images(folders):
    held = DATASETS.build(in_memory_config(folders, AUGMENT))
    indices = [5, 0, 17]
    torch.manual_seed(7)
    got = held.__getitems__(indices)["inputs"]
    torch.manual_seed(7)
    expected = BatchRandomHorizontalFlip()(BatchRandomCrop(4)(held.images[indices]))
    assert torch.equal(got, expected)


def epoch(dataset, workers, seed, **options):
    torch.manual_seed(seed)
    loader = DataLoader(
        dataset, batch_size=4, shuffle=True, num_workers=workers, collate_fn=already_collated, **options
    )
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_loader(folders, workers):
    held = DATASETS.build(in_memory_config(folders, AUGMENT))
    batches = epoch(held, workers, seed=1)
    assert [len(b["labels"]) for b in batches] == [4, 4, 4, 4, 4, 1]
    assert all(type(b) is dict and b["inputs"].dtype == torch.uint8 for b in batches)
    assert torch.cat([b["labels"] for b in batches]).bincount().tolist() == [7, 7, 7]
    again, other = epoch(held, workers, seed=1), epoch(held, workers, seed=2)
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(batches, again, strict=True))
    assert not all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(batches, other, strict=True))


def test_workers_have_draws_of_their_own(folders):
    held = InMemoryDataset(inner(folders), AUGMENT)
    torch.manual_seed(0)
    loader = DataLoader(Subset(held, [0] * 64), batch_size=32, num_workers=2, collate_fn=already_collated)
    first, second = (batch["inputs"] for batch in loader)
    assert not torch.equal(first, second)


def test_spawned_workers_share_the_images(folders):
    held = InMemoryDataset(inner(folders), AUGMENT)
    held.images = torch.zeros(1000, 3, 32, 32, dtype=torch.uint8)  # 3 MB
    stream = io.BytesIO()
    ForkingPickler(stream).dump(held)  # what starting a spawned worker does
    assert len(stream.getvalue()) < 20_000
    assert held.images.is_shared()


def test_subset_gives_whole_batches_and_wrappers_single_samples(folders):
    held = InMemoryDataset(inner(folders))
    (batch,) = DataLoader(Subset(held, [1, 20]), batch_size=2, collate_fn=already_collated)
    assert batch["labels"].tolist() == [0, 2]
    repeated = ConcatDataset([held, held])
    batch = next(iter(DataLoader(repeated, batch_size=4, collate_fn=default_collate)))
    assert batch["inputs"].shape == (4, 3, 16, 16)
    with pytest.raises(
        ConfigError, match=r"'already_collated' is for InMemoryDataset alone.*default_collate"
    ):
        next(iter(DataLoader(repeated, batch_size=4, collate_fn=already_collated)))


@pytest.mark.parametrize("collate", [default_collate, mmengine_default_collate])
def test_another_collate_function_is_told(folders, collate):
    held = InMemoryDataset(inner(folders))
    with pytest.raises(ConfigError, match=r"collate_fn=dict\(type='already_collated'\)"):
        next(iter(DataLoader(held, batch_size=4, collate_fn=collate)))
    with pytest.raises(KeyError, match="img"):
        held.__getitems__([0])["img"]


@pytest.mark.parametrize("workers", [0, 2])
def test_mmengines_loader(folders, workers):
    config = {
        "batch_size": 8,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "drop_last": True,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "collate_fn": {"type": "already_collated"},
        "dataset": in_memory_config(folders, AUGMENT),
    }
    torch.manual_seed(0)
    loader = Runner.build_dataloader(config, seed=3)
    batches = list(loader)
    assert [batch["inputs"].shape for batch in batches] == [(8, 3, 16, 16)] * 2
    if workers:  # mmengine seeds its workers from the run's seed, whatever the main process drew
        torch.manual_seed(9)
        again = list(Runner.build_dataloader(config, seed=3))
        assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(batches, again, strict=True))


class Mean(BaseModel):
    def __init__(self, data_preprocessor):
        super().__init__(data_preprocessor)
        self.head = torch.nn.Linear(3, 3)
        self.seen = []

    def forward(self, inputs, labels, mode):
        self.seen.append((inputs.dtype, tuple(inputs.shape)))
        return {"loss": torch.nn.functional.cross_entropy(self.head(inputs.mean((2, 3))), labels)}


def test_mmengines_runner_trains_on_it(folders, tmp_path):
    model = Mean({"type": "ClassificationPreprocessor", "mean": [125, 123, 114], "std": [60, 60, 60]})
    runner = Runner(
        model,
        str(tmp_path / "work"),
        train_dataloader={
            "batch_size": 8,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": "already_collated"},
            "dataset": in_memory_config(folders, AUGMENT),
        },
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": None},
        experiment_name=f"in_memory_{os.getpid()}",
    )
    runner.train()
    assert model.seen == [(torch.float32, (size, 3, 16, 16)) for size in (8, 8, 5)] * 2
    assert runner.train_loop.dataloader.dataset.metainfo == {"classes": ("a", "b", "c")}


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_image_of_another_size_is_named(folders, monkeypatch, threads):
    monkeypatch.setattr(in_memory, "_IMAGES_PER_TASK", 2)
    for name in ("b/3", "c/1"):
        Image.new("RGB", (20, 16)).save(folders / "train" / f"{name}.png")
    with pytest.raises(DataError, match=r"b/3\.png is torch\.uint8 \[3, 16, 20\].*\[3, 16, 16\].*Resize"):
        InMemoryDataset(inner(folders), num_threads=threads)
    resize = [{"type": "torchvision/Resize", "size": (16, 16)}]
    assert InMemoryDataset(inner(folders, pipeline=resize)).images.shape == (21, 3, 16, 16)


def test_damaged_and_missing_images_are_named(folders):
    path = folders / "train" / "b" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"b/2\.png .*cannot be decoded"):
        InMemoryDataset(inner(folders))
    source = DATASETS.build(inner(folders))
    path.unlink()
    with pytest.raises(DataError, match=r"b/2\.png is missing"):
        InMemoryDataset(source)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "torchvision/RandomCrop", "size": 16, "padding": 2},
        {"type": "torchvision/RandomHorizontalFlip"},
        {"type": "FastAutoAugment"},
    ],
)
def test_random_steps_that_would_run_only_once_are_refused(folders, step):
    with pytest.raises(
        ConfigError, match=r"ImageNetFolder inside InMemoryDataset draws random numbers.*batch_pipeline"
    ):
        InMemoryDataset(inner(folders, pipeline=[step]))


class Samples(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"inputs": self.images[index], "labels": index}


def test_any_data_set_of_the_same_items_will_do():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    held = InMemoryDataset(Samples(images))
    assert torch.equal(held.images, images)
    assert (held.metainfo, held.classes, held.fingerprint()) == ({}, [], None)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([torch.zeros(3, 4, 4)], r"gives torch\.float32 \[3, 4, 4\]"),
        ([torch.zeros(1, 4, 4, dtype=torch.uint8)], r"gives torch\.uint8 \[1, 4, 4\]"),
        ([np.zeros((4, 4, 3), np.uint8)], "gives ndarray"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)], r"image 1 is torch\.float32"),
        ([], "Samples is empty"),
    ],
)
def test_items_of_another_kind_are_refused(images, named):
    with pytest.raises(DataError, match=named):
        InMemoryDataset(Samples(images))


@pytest.mark.parametrize(
    ("available", "processes", "fits"),
    [(768, 1, True), (767, 1, False), (1535, 2, False), (1536, 2, True), (None, 1, True)],
)
def test_what_cannot_fit_is_refused_before_it_is_read(monkeypatch, available, processes, fits):
    monkeypatch.setattr(in_memory, "available_memory_bytes", lambda: available)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    samples = Samples(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    if fits:
        assert len(InMemoryDataset(samples)) == 1
    else:
        with pytest.raises(
            DataError, match=r"1 images \[3, 16, 16\] as uint8.* take 0\.0 GB, and 0\.0 GB of memory"
        ):
            InMemoryDataset(samples)


def test_progress_is_told(monkeypatch):
    lines = []
    monkeypatch.setattr(in_memory, "print_log", lambda line, logger: lines.append(line))
    monkeypatch.setattr(in_memory, "_IMAGES_PER_TASK", 2)
    samples = Samples(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    InMemoryDataset(samples, num_threads=1)
    assert lines == []  # a small set is there at once
    monkeypatch.setattr(in_memory, "_SECONDS_BETWEEN_PROGRESS_LINES", 0)
    InMemoryDataset(samples, num_threads=1)
    assert [line.split(",")[0] for line in lines[:-1]] == ["decoded 2 of 5 images", "decoded 4 of 5 images"]
    assert lines[-1].startswith("holding 5 images [3, 8, 8] in memory, 0 MB")


def test_negative_thread_count():
    with pytest.raises(ConfigError, match=r"num_threads must be 0 .* got -1"):
        InMemoryDataset(Samples(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), num_threads=-1)
