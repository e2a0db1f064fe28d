"""Data-loading processes outlive the signals that are meant for the training.

torchrun, Slurm and terminals send SIGTERM, SIGUSR1 or SIGINT to a whole process group. The training answers by saving;
its workers would die of it, in the middle of the step that is to be saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any


def shield_workers(loader: Any) -> None:
    """Have a DataLoader's workers make process groups of their own; what its ``worker_init_fn`` did is done as before.

    The DataLoader can still end them, and when the training dies they notice it within seconds and end. Twice is once.
    """
    before = loader.worker_init_fn
    if not (isinstance(before, partial) and before.func is _begin):
        loader.worker_init_fn = partial(_begin, before)


def _begin(then: Callable[[int], Any] | None, worker_id: int) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if then is not None:
        then(worker_id)
