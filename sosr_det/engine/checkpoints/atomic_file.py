"""Writing a checkpoint so that a crash at any moment leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sosr_det.errors import CheckpointError
from sosr_det.registry.files import free_bytes, fsync_dir

DIGEST = ".sha256"  # ending of the file beside a checkpoint, as `sha256sum -c` reads it
_PART = ".part"
_CHUNK = 1 << 22  # bytes
_FOLDER = 0x10  # among the attributes of a zip archive's part


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> str:
    """Write ``content`` to ``path``, with its SHA-256 beside it; returns the digest.

    The new file is written beside the old one, synced, read back from the disk and compared, opened as a checkpoint,
    and only then takes the old one's name. Where a file of that name exists, its digest goes first: a file without a
    digest is checked by the checksums inside it (:func:`check_file`), so no moment has a valid file under a wrong one.

    Raises:
        CheckpointError: the disk is full, or it failed to keep what was written; the old file is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getbuffer()
    digest = hashlib.sha256(data).hexdigest()
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    remove_parts(path.parent)
    try:
        _write_synced(part, data)
        _read_back(part, digest)
        beside = path.with_name(path.name + DIGEST)
        if beside.exists():  # also one whose file was removed: it would be taken for the new file's
            beside.unlink()
            fsync_dir(path.parent)
        os.replace(part, path)
        fsync_dir(path.parent)
        write_text(beside, f"{digest}  {path.name}\n")
    except OSError as error:
        raise CheckpointError(_cannot_write(path, len(data), error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return digest


def write_text(path: Path, text: str) -> None:
    """Replace a small text file whole, durably."""
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    try:
        _write_synced(part, memoryview(text.encode()))
        os.replace(part, path)
        fsync_dir(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its digest; the digest last, so that a file is never without it for longer than it is."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + DIGEST).unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in a run's folder; no two runs write to one folder at a time."""
    orphans = [each for each in folder.glob(f"*.pth{DIGEST}") if not each.with_suffix("").exists()]
    for left in [*folder.glob(f".*{_PART}"), *orphans]:
        with contextlib.suppress(OSError):
            left.unlink()


def check_file(path: Path) -> str | None:
    """What is wrong with a checkpoint file, as the end of a sentence about it; None for a whole one.

    Its bytes are compared with the SHA-256 beside it. Without one, the checksums of the parts of the file itself are
    checked, which torch writes: they find damage too.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if size == 0:
        return "is empty"
    beside = path.with_name(path.name + DIGEST)
    try:
        expected = beside.read_text(errors="replace").split()[:1] if beside.is_file() else []
        if expected and len(expected[0]) == 64:
            found = file_digest(path)
            if found != expected[0]:
                return f"is damaged: its SHA-256 is {found[:12]}…, and {beside.name} says {expected[0][:12]}…"
            return None
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            # The archive's directory has no checksum. torch reads nothing of what is marked as a folder there, and says
            # nothing; all other bits of it that change what is read are noticed by torch or zipfile.
            bad = bad or next(
                (each.filename for each in archive.infolist() if each.external_attr & _FOLDER), None
            )
        return f"is damaged in its part {bad}" if bad else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except (
        Exception
    ) as error:  # a damaged directory of the archive makes zipfile raise half a dozen different ones
        return f"is damaged or no checkpoint ({error})"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_synced(path: Path, data: memoryview) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags, 0o666)
    try:
        view = data
        while view.nbytes:
            written = os.write(fd, view[:_CHUNK])
            if written <= 0:
                raise OSError(errno.EIO, "nothing was written")
            view = view[written:]
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_back(path: Path, digest: str) -> None:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        if hasattr(os, "posix_fadvise"):  # from the disk, not from the memory that it was written from
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK):
            found.update(chunk)
    finally:
        os.close(fd)
    if found.hexdigest() != digest:
        raise OSError(errno.EIO, "what was read back is not what was written")
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:  # the disk's fault, not the content's
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path.name} would hold something that only unrestricted unpickling can read, so it was not kept: "
            f"{str(error).splitlines()[0]} A hook of this run put it into the checkpoint; store tensors, numbers, "
            "text, lists and dicts only."
        ) from error


def _cannot_write(path: Path, size: int, error: OSError) -> str:
    kept = "the checkpoints before it are untouched"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            free = f"{free_bytes(path.parent) / 2**20:.0f} MiB are free"
        except OSError:
            free = "the free space could not be read"
        advice = (
            f"the disk or your quota is full ({free}, {size / 2**20:.0f} MiB are needed); free some space"
        )
    else:
        advice = f"{error.strerror or error}; check the disk and its mount"
    return f"cannot write the checkpoint {path}: {advice}, then continue with --resume: {kept}."
