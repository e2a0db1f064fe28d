"""Worker processes of data loaders may die; that is told only while a batch is fetched, and they are started again."""

from __future__ import annotations

import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from sosr_det.errors import DataError

logger = logging.getLogger("sosr_det")

MOST_RESTARTS = 3  # of the worker processes, in one epoch or validation

_loaders: weakref.WeakSet[DataLoader] = weakref.WeakSet()
_before: list[Any] = []  # torch's handler, while ours is in its place
_fetching = threading.local()


@contextmanager
def deaths_wait_for_fetches(loader: DataLoader | None = None) -> Iterator[None]:
    """Within the block, torch tells of a dead worker process only in :func:`fetch`.

    torch raises it from a signal handler, wherever the main process is: in the middle of an optimizer's step, the step
    would be half made, and in the middle of a save there would be none. What dies meanwhile is told at the next fetch.
    Blocks may be nested. Off the main thread Python allows no handlers: no change.

    Args:
        loader: one whose workers :func:`forget_dead_workers` is to know.
    """
    if loader is not None:
        _loaders.add(loader)
    if threading.current_thread() is not threading.main_thread() or _before:
        yield
        return
    signal_handling._set_SIGCHLD_handler()  # torch's own comes with its first worker: ours must be around it
    _before.append(signal.signal(signal.SIGCHLD, _handle))
    try:
        yield
    finally:
        before = _before.pop()
        if signal.getsignal(signal.SIGCHLD) is _handle:
            signal.signal(signal.SIGCHLD, before)


def fetch(call: Callable[[], Any]) -> Any:
    """``call()``, in which a dead worker process of any loader is an error.

    Raises:
        RuntimeError: torch's, that :func:`is_worker_death` knows.
    """
    _fetching.now = True
    try:
        signal_handling._error_if_any_worker_fails()
        return call()
    finally:
        _fetching.now = False


def _handle(number: int, frame: Any) -> None:
    if getattr(_fetching, "now", False) and _before and callable(_before[0]):
        _before[0](number, frame)


def is_worker_death(error: RuntimeError) -> bool:
    """Whether torch says that a worker process is gone."""
    return str(error).startswith("DataLoader worker (pid")


def forget_dead_workers(loader: DataLoader, iterator: Any) -> None:
    """End the workers of ``loader``, and those of loaders that have a dead one among them: torch tells of it once,
    and the next to wait for it would do so for seconds. Their next iteration starts new ones."""
    _shut_down(loader, loader._iterator or iterator)
    for other in list(_loaders):
        workers = getattr(other._iterator, "_workers", ())
        if any(not process.is_alive() for process in workers):
            _shut_down(other, other._iterator)


def _shut_down(loader: DataLoader, iterator: Any) -> None:
    loader._iterator = None
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def outliving_batches(
    loader: DataLoader,
    begin: Callable[[int], int],
    *,
    what: str,
    first: int = 0,
    begins_again: bool = True,
) -> Iterator[Any]:
    """The batches of a loader. Where its workers die, new ones are started, and no batch is lost or given twice.

    Args:
        loader: to be iterated.
        begin: called before each iteration with the number of batches that were given; returns how many of them the
            loader is going to give once more.
        what: ``training`` or ``validation``, for messages.
        first: place in the epoch of the first batch, for messages.
        begins_again: whether the loader gives the same order again.

    Raises:
        DataError: the workers died more often than :data:`MOST_RESTARTS` times, or there is no beginning again.
    """
    done, restarts = 0, 0
    with deaths_wait_for_fetches(loader):
        while True:
            iterator = None
            known = begin(done)
            try:
                iterator = fetch(loader.__iter__)
                for _ in range(known):
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
                forget_dead_workers(loader, iterator)
                if restarts > MOST_RESTARTS or not begins_again:
                    raise _restarted_too_often(what, first + done, restarts, error) from error
                logger.warning(
                    f"{str(error).splitlines()[0]} Starting the {what}'s data loader again at batch "
                    f"{first + done + 1}: nothing is lost ({restarts} of {MOST_RESTARTS} times)."
                )


def _restarted_too_often(what: str, position: int, deaths: int, error: RuntimeError) -> DataError:
    section = "train_dataloader" if what == "training" else "val_dataloader"
    return DataError(
        f"the {what} data loader's worker processes died {deaths} time{'s' * (deaths > 1)} in one epoch, the last time "
        f"at batch {position + 1}: {str(error).splitlines()[0]} The usual cause is too little memory, or too little "
        "shared memory in a container (docker run --shm-size=8g). Use fewer workers (--cfg-options "
        f"{section}.num_workers=2) or smaller batches, then --resume."
    )
