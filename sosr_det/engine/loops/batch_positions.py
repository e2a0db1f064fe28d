"""A batch sampler that can begin at any batch, and whose indices know the epoch that they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

from sosr_det.data.sample_seeds import EpochIndex


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler:
    """The batches of a sampler from a given one on; those before it are skipped as indices, and nothing is loaded.

    Works with every sampler and batch sampler that gives the same order for the same seed and epoch, which is what
    mmengine's and MMDetection's do. A sampler without an end (mmengine's ``InfiniteSampler``) is set back through its
    ``skip``.

    Args:
        sampler: of indices; its ``set_epoch``, if any, is called by :meth:`begin`.
        batch_size: of one process, at least 1.
        drop_last: leave out a last batch that is not full.
        batches: config of another batch sampler, such as MMDetection's ``AspectRatioBatchSampler``.
    """

    def __init__(
        self, sampler: Any, batch_size: int, drop_last: bool = False, batches: dict | None = None
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.batches = (
            BatchSampler(sampler, batch_size, drop_last)
            if batches is None
            else DATA_SAMPLERS.build(batches, default_args={"sampler": sampler, "batch_size": batch_size})
        )
        self.epoch = self.first = 0
        self.step: int | None = None

    @property
    def is_endless(self) -> bool:
        """Whether the sampler never ends, so that the steps are counted and no epochs."""
        return hasattr(self.sampler, "skip")

    def begin(self, epoch: int, first: int, step: int | None = None) -> None:
        """Set where the next iteration begins.

        Args:
            epoch: number of finished epochs.
            first: batch of this epoch to begin with, from 0; of an endless sampler, of the whole run.
            step: where steps are counted and no epochs: the number of finished steps. Each batch is then augmented by
                the number of its step instead of its epoch's.
        """
        self.epoch, self.first, self.step = epoch, first, step
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        if self.is_endless:
            self.sampler.skip(first * self.batch_size)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        # An endless sampler was set to its place by its own `skip`.
        batches = self.batches if self.is_endless else islice(self.batches, self.first, None)
        epoch, step = self.epoch, self.step
        for number, batch in enumerate(batches):
            place = epoch if step is None else step + number
            yield [EpochIndex(index, place) for index in batch]

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next iteration begins."""
        return len(self.batches)
