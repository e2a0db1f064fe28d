"""Building a folder out of sight and giving it its name at the end, so that no half data set has that name."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from sosr_det.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def only_one(folder: Path, name: str) -> Iterator[None]:
    """Keep a second ``prepare`` of the same data set out of the folder, by a hidden file that is removed at the end.

    Raises:
        DataError: one is at work already.
    """
    lock = filelock.FileLock(folder / f".{name}.prepare.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise DataError(
            f"another `sosr-det data prepare {name}` is at work in {folder}. Wait for it, or stop it first."
        ) from error
    try:
        yield
    finally:
        # Before the release: whoever opened the file until now finds on locking it that it has no name any more, and
        # filelock (since 3.21) tries again with a new one. Windows does not remove an open file; filelock does there.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


@contextmanager
def no_empty_folders(*folders: Path) -> Iterator[None]:
    """Take back those of the folders, and of their parents, that did not exist before and are empty at the end."""
    lineages = [(folder.absolute(), *folder.absolute().parents) for folder in folders]
    new = {folder for lineage in lineages for folder in lineage if not folder.exists()}
    try:
        yield
    finally:
        for folder in sorted(new, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the disk into a :class:`DataError` that says what to do."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = "check that you can read and write there"
        if error.errno in _FULL:
            free = shutil.disk_usage(_existing(folder)).free
            advice = (
                f"the disk or your quota is full ({free / 1e9:.1f} GB free); make room, or use another --root"
            )
        raise DataError(
            f"cannot prepare data in {folder}: {where}{error.strerror or error}; {advice}. Then run the same "
            "command again; finished downloads are kept."
        ) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Stop before the disk is full.

    Args:
        folder: where the files will be; it or a parent exists.
        needed: bytes still to be written.
        what: what needs them, for the message.

    Raises:
        DataError: fewer bytes are free.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise DataError(
            f"{what} needs about {needed / 1e9:.2f} GB more in {folder}, but only {free / 1e9:.2f} GB are free. "
            "Make room, or choose a folder on another disk with --root."
        )


def staging_folder(final: Path) -> Path:
    """The hidden folder beside ``final`` in which it is built; the same name on every run."""
    return final.parent / f".{final.name}.partial"


@contextmanager
def fresh_staging(final: Path) -> Iterator[Path]:
    """An empty staging folder, removed at the end whatever happens; a killed run's is removed at the start."""
    folder = staging_folder(final)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(built: Path, final: Path) -> None:
    """Give a finished folder its final name; only an empty folder may have that name before.

    Raises:
        OSError: it cannot be moved there.
    """
    if hasattr(os, "sync"):
        os.sync()  # before the name: after a power cut the name must not stand for files without content
    if final.is_dir():
        final.rmdir()
    os.rename(built, final)
    if os.name != "nt":
        handle = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def holds_something(folder: Path) -> bool:
    """Whether there is anything under this name but an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def bytes_below(folder: Path) -> int:
    """Sum of the sizes of all files below a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    return total


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
