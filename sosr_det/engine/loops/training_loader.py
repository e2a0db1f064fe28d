"""The training data loader: seeded by sample, able to begin at any batch, and to outlive its worker processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from sosr_det.data.sample_seeds import seed_number
from sosr_det.data.unreadable import skip_unreadable
from sosr_det.engine.loops.batch_positions import ResumableBatchSampler
from sosr_det.engine.loops.workers import outliving_batches


def resumable_loader_config(config: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """A ``train_dataloader`` config with its samples seeded one by one and its batches counted.

    The config that is recorded stays as the user wrote it.
    """
    config = copy.copy(config)
    dataset = config["dataset"]
    if not (isinstance(dataset, dict) and dataset.get("type") == "SampleSeededDataset"):
        config["dataset"] = {"type": "SampleSeededDataset", "dataset": dataset, "seed": seed}
    batches = config.pop("batch_sampler", None)
    drop_last = config.pop("drop_last", False)
    config["batch_sampler"] = {"type": "ResumableBatchSampler", "drop_last": drop_last, "batches": batches}
    return config


def build_training_loader(runner: Runner, config: dict[str, Any]) -> DataLoader:
    """Build it as mmengine does, from :func:`resumable_loader_config`."""
    different = (runner._randomness_cfg or {}).get("diff_rank_seed", False)
    bad_images = runner.cfg.get("unreadable_images") or {}
    if bad_images.get("policy") == "skip":
        config = {**config, "dataset": skip_unreadable(config["dataset"], bad_images["most"])}
    loader = runner.build_dataloader(
        resumable_loader_config(config, runner.seed), seed=runner.seed, diff_rank_seed=different
    )
    # Of its own: starting an iteration must not draw from the generator that dropout draws from.
    loader.generator = torch.Generator()
    return loader


class TrainingBatches:
    """The batches of one epoch, or of an endless sampler, from a given one on.

    Worker processes that die (mostly: killed for lack of memory) are started again at the batch that was due, so that
    no batch is lost or repeated: :data:`MOST_RESTARTS` times, then the run stops.

    Args:
        loader: of :func:`build_training_loader`.
        seed: of the run.
    """

    def __init__(self, loader: DataLoader, seed: int | None) -> None:
        self.loader = loader
        self.seed = seed or 0
        self.sampler: ResumableBatchSampler = loader.batch_sampler

    def begin(self, epoch: int, first: int, step: int | None = None) -> Iterator[Any]:
        """Iterate from batch ``first`` of an epoch on; see :meth:`ResumableBatchSampler.begin`.

        Raises:
            DataError: the worker processes died again and again.
        """

        def begin(done: int) -> int:
            self.sampler.begin(epoch, first + done, None if step is None else step + done)
            self.loader.generator.manual_seed(seed_number("loader", self.seed, epoch, get_rank()))
            return 0

        return outliving_batches(self.loader, begin, what="training", first=first)

    def indices(self, epoch: int, position: int, step: int | None = None) -> list[int]:
        """Into the data set, of the batch of a step; for a run that ends, as the sampler does not go on from there."""
        self.sampler.begin(epoch, position, step)
        return [int(index) for index in next(iter(self.sampler))]
