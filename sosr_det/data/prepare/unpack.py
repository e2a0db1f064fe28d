"""Unpacking an archive into a folder, without letting it write anywhere else."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.errors import DataError


def unpack(archive: Path, into: Path, progress: Progress = no_progress) -> None:
    """Unpack a ``.zip``, or a tar file with any compression, into an existing folder.

    Raises:
        DataError: the archive is damaged, or a member would land outside ``into``.
        OSError: a file cannot be written.
    """
    try:
        with open(archive, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip:
            _unpack_zip(archive, into, progress)
        else:
            _unpack_tar(archive, into, progress)
    except tarfile.FilterError as error:
        raise hostile_member(archive, str(error)) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{archive} cannot be unpacked ({error}). It is damaged or of another kind; get it again."
        ) from error


def hostile_member(archive: Path, reason: str) -> DataError:
    """The error for an archive with a member that must not be unpacked."""
    return DataError(
        f"{archive} holds a member that does not belong into a data set: {reason}. Nothing of it is kept; "
        "do not use this file."
    )


def _unpack_tar(archive: Path, into: Path, progress: Progress) -> None:
    total = archive.stat().st_size
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
        for member in tar:
            # None of the data sets holds links, and Python's filter can be led out through them before 3.11.13
            # (CVE-2025-4517): a chain of links whose real path is longer than the system resolves.
            if member.issym() or member.islnk():
                raise hostile_member(archive, f"{member.name!r} is a link")
            # The filter refuses absolute names, "..", and devices.
            tar.extract(member, into, filter="data")
            progress(f"unpacking {archive.name}", raw.tell(), total)


def _unpack_zip(archive: Path, into: Path, progress: Progress) -> None:
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        total, done = sum(member.compress_size for member in members), 0
        for member in members:
            # `extract` would silently rename such members into the folder.
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
                raise hostile_member(archive, f"{member.filename!r} leads out of the folder")
            zipped.extract(member, into)
            done += member.compress_size
            progress(f"unpacking {archive.name}", done, total)
