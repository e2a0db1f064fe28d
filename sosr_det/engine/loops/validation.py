"""A validation that outlives its data loader's worker processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, SequentialSampler

from sosr_det.engine.loops.workers import (
    MOST_RESTARTS,
    deaths_wait_for_fetches,
    fetch,
    forget_dead_workers,
    is_worker_death,
    restarted_too_often,
)

logger = logging.getLogger("sosr_det")


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
        done, restarts = 0, 0
        with deaths_wait_for_fetches(self.loader):
            while True:
                iterator = None
                try:
                    iterator = fetch(self.loader.__iter__)
                    for _ in range(done):
                        fetch(iterator.__next__)
                    while True:
                        batch = fetch(iterator.__next__)
                        done += 1
                        yield batch
                except StopIteration:
                    return
                except RuntimeError as error:
                    if not is_worker_death(error):
                        raise
                    restarts += 1
                    forget_dead_workers(self.loader, iterator)
                    repeats = isinstance(self.loader.sampler, (DefaultSampler, SequentialSampler))
                    if restarts > MOST_RESTARTS or not repeats:
                        raise restarted_too_often("validation", done, error) from error
                    logger.warning(
                        f"{str(error).splitlines()[0]} Starting the validation's data loader again at batch {done + 1} "
                        f"({restarts} of {MOST_RESTARTS} times)."
                    )


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
