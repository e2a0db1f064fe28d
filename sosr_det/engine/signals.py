"""SIGTERM, with which torchrun, Slurm and service managers end processes, unwinds as Ctrl-C does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TERMINATED = 128 + signal.SIGTERM  # exit code, as a shell reports it


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Within the block or decorated function SIGTERM raises ``SystemExit(TERMINATED)``, so that cleaning up happens.

    The handler from before comes back: processes that are forked later would inherit this one, and could not be ended
    where an exception gets lost, as in the hooks of a fork. Off the main thread Python allows no handlers: no change.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
