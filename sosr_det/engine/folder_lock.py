"""One training to a folder: a second one would overwrite checkpoints and records of the first, and it would theirs."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from sosr_det.engine.work_dir import OccupiedError
from sosr_det.errors import ConfigError

LOCK_NAME = ".training.lock"
_PATIENCE = 10.0  # seconds: a process that was just killed or told to stop may still be ending
_HELD_ELSEWHERE = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_held: dict[Path, int] = {}  # folder -> descriptor


def hold_folder(folder: Path) -> None:
    """Keep other trainings out of ``folder`` until :func:`folders_released` ends; every rank must call it.

    Does nothing where the folder does not exist or is held by this process. The lock is the kernel's and the process's
    own: it goes when the process ends, however that happens, and data-loading processes that outlive it do not hold it.
    Where the file system has no locks, the training goes on without one, and a line says so.

    Raises:
        OccupiedError: another process trains there, also after 10 s; on every rank.
        ConfigError: the folder cannot be written to.
    """
    failure: list[Any] = [None]
    if is_main_process():
        try:
            _hold(folder)
        except ConfigError as error:
            failure = [error]
    broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]


@contextmanager
def folders_released() -> Iterator[None]:
    """What is held within the block or decorated function is released after it."""
    try:
        yield
    finally:
        while _held:
            folder, descriptor = _held.popitem()
            with suppress(OSError):
                (folder / LOCK_NAME).unlink()  # still held: nobody can have taken it meanwhile
            os.close(descriptor)


def _hold(folder: Path) -> None:
    folder = folder.absolute()
    if folder in _held or not folder.is_dir():
        return
    path, until = folder / LOCK_NAME, time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"the work directory {folder} cannot be written to: {error.strerror or error}. Choose another "
                "--work-dir, or copy the run to a place where you may write and resume it there."
            ) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:  # else: released and removed meanwhile
                break
            os.close(descriptor)
        except FileNotFoundError:
            os.close(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                print(
                    f"warning: the file system of {folder} has no locks ({error.strerror}): take care that no second "
                    "training is started in this folder",
                    flush=True,
                )
                return
            if error.errno not in _HELD_ELSEWHERE:
                raise ConfigError(f"{path} cannot be locked: {error.strerror or error}.") from error
            if time.monotonic() > until:
                raise OccupiedError(
                    f"{holder} is training in {folder}: two trainings in one folder would overwrite each other's "
                    "checkpoints. Wait for it or stop it, then try again; or use another --work-dir."
                ) from error
            time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[folder] = descriptor
