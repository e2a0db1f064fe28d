"""The training data loader: seeded by sample, able to begin at any batch, and to outlive its worker processes."""

from __future__ import annotations

import copy
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from sosr_det.data.sample_seeds import seed_number
from sosr_det.data.unreadable import skip_unreadable
from sosr_det.engine.loops.batch_positions import ResumableBatchSampler
from sosr_det.errors import DataError

logger = logging.getLogger("sosr_det")

MOST_RESTARTS = 3  # of the worker processes, in one epoch


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
        done, restarts = 0, 0
        while True:
            self.sampler.begin(epoch, first + done, None if step is None else step + done)
            self.loader.generator.manual_seed(seed_number("loader", self.seed, epoch, get_rank()))
            iterator = None
            with _WorkerWatch(self.loader) as watch:
                try:
                    iterator = watch.fetch(self.loader.__iter__)
                    while True:
                        batch = watch.fetch(iterator.__next__)
                        done += 1
                        yield batch
                except StopIteration:
                    return
                except RuntimeError as error:
                    if not _worker_died(error):
                        raise
                    restarts += 1
                    self._forget(iterator)
                    if restarts > MOST_RESTARTS:
                        raise DataError(_advice(first + done, error)) from error
                    logger.warning(
                        f"{str(error).splitlines()[0]} Starting the data loader again at batch {first + done + 1}: "
                        f"nothing is lost ({restarts} of {MOST_RESTARTS} times)."
                    )

    def _forget(self, iterator: Any) -> None:
        iterator = self.loader._iterator or iterator
        self.loader._iterator = None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


class _WorkerWatch:
    """Lets torch tell of a dead worker process only while a batch is fetched.

    torch raises it from a signal handler, wherever the main process is: in the middle of an optimizer's step, the step
    would be half made. What dies during a step is told at the next fetch.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._used = loader.num_workers > 0 and threading.current_thread() is threading.main_thread()
        self._fetching = False
        self._before: Any = None

    def __enter__(self) -> _WorkerWatch:
        if self._used:
            signal_handling._set_SIGCHLD_handler()  # torch's own comes with its first worker: ours must be around it
            self._before = signal.signal(signal.SIGCHLD, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._used and signal.getsignal(signal.SIGCHLD) == self._handle:
            signal.signal(signal.SIGCHLD, self._before)

    def fetch(self, call: Any) -> Any:
        self._fetching = True
        try:
            if self._used:
                signal_handling._error_if_any_worker_fails()
            return call()
        finally:
            self._fetching = False

    def _handle(self, number: int, frame: Any) -> None:
        if self._fetching and callable(self._before):
            self._before(number, frame)


def _worker_died(error: RuntimeError) -> bool:
    return str(error).startswith("DataLoader worker (pid")


def _advice(position: int, error: RuntimeError) -> str:
    return (
        f"the data loader's worker processes died {MOST_RESTARTS + 1} times in one epoch, the last time at batch "
        f"{position + 1}: {str(error).splitlines()[0]} The usual cause is too little memory, or too little shared "
        "memory in a container (docker run --shm-size=8g). Use fewer workers (--cfg-options "
        "train_dataloader.num_workers=2) or smaller batches, then --resume."
    )
