"""A validation that outlives its data loader's worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, SequentialSampler

from sosr_det.engine.loops.workers import outliving_batches


class OutlivingLoader:
    """A data loader in all but its iteration: where workers die, they are started again, and nothing is told twice.

    The batches before are loaded once more and thrown away, so only loaders that give the same order again are begun
    again; of others the error is passed on.

    Args:
        loader: of a validation.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        repeats = isinstance(self.loader.sampler, (DefaultSampler, SequentialSampler))
        return outliving_batches(self.loader, lambda done: done, what="validation", begins_again=repeats)


@contextmanager
def outliving_workers(val_loop: Any) -> Iterator[None]:
    """Within the block the loop iterates over an :class:`OutlivingLoader`."""
    loader = getattr(val_loop, "dataloader", None)
    if not isinstance(loader, DataLoader):
        yield
        return
    val_loop.dataloader = OutlivingLoader(loader)
    try:
        yield
    finally:
        val_loop.dataloader = loader
