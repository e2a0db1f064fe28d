"""Data-loading processes outlive the signals that are meant for the training.

torchrun, Slurm and terminals send SIGTERM, SIGUSR1 or SIGINT to a whole process group. The training answers by saving;
its workers would die of it, in the middle of the step that is to be saved.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import process
from typing import Any

from sosr_det.errors import ConfigError

_LONGEST_SOCKET_PATH = 103  # bytes; Linux allows 107, macOS 103
_SOCKET_NAME = "/listener-12345678"  # as multiprocessing names them, in a folder of its own
_SOCKET_FOLDER = "/pymp-12345678"


def shield_workers(loader: Any) -> None:
    """Have a DataLoader's workers make process groups of their own; what its ``worker_init_fn`` did is done as before.

    The DataLoader can still end them, and when the training dies they notice it within seconds and end. Twice is once.

    Raises:
        ConfigError: see :func:`require_short_temporary_folder`.
    """
    if loader.num_workers > 0:
        require_short_temporary_folder()
    before = loader.worker_init_fn
    if not (isinstance(before, partial) and before.func is _begin):
        loader.worker_init_fn = partial(_begin, before)


def require_short_temporary_folder() -> None:
    """Refuse a temporary folder under which workers could not hand over their batches.

    They do so through a socket there, whose path the system limits. torch says nothing to the main process when a
    worker cannot open it: the training would wait for its first batch for ever.

    Raises:
        ConfigError: names the folder and how long it may be.
    """
    if os.name == "nt":
        return
    made = process.current_process()._config.get("tempdir")  # once made it stays, whatever $TMPDIR says then
    folder = made or f"{tempfile.gettempdir()}{_SOCKET_FOLDER}"
    room = _LONGEST_SOCKET_PATH - len(_SOCKET_NAME) - (0 if made else len(_SOCKET_FOLDER))
    if len(os.fsencode(folder)) + len(_SOCKET_NAME) > _LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"the temporary folder {made or tempfile.gettempdir()} has too long a name: data loader workers make "
            f"sockets in it, and it may have {room} bytes. Set TMPDIR to a shorter one, or use no workers "
            "(--cfg-options train_dataloader.num_workers=0 val_dataloader.num_workers=0)."
        )


def _begin(then: Callable[[int], Any] | None, worker_id: int) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if then is not None:
        then(worker_id)
