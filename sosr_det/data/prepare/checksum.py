"""MD5 of archives, and what to say when it is not the published one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sosr_det.data.prepare.catalogue import Archive
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.errors import DataError

_CHUNK = 1 << 20  # bytes


def file_md5(path: Path, progress: Progress = no_progress) -> str:
    """Return the file's MD5 as 32 hex digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checking {path.name}", done, total)
    return digest.hexdigest()


def check_archive(archive: Archive, path: Path, progress: Progress = no_progress) -> None:
    """Compare a file with the published checksum; the file is not touched.

    Raises:
        DataError: another checksum; the message names both and both sizes.
    """
    found = file_md5(path, progress)
    if found != archive.md5:
        raise DataError(
            f"{path} is not the published {archive.filename}: {describe_difference(archive, path, found)}. "
            "Nothing was changed. Delete the file or replace it, then run the command again."
        )


def describe_difference(archive: Archive, path: Path, found_md5: str) -> str:
    """Say what was expected, by whose checksum, and what is there, with the likely cause where the file shows one."""
    size = path.stat().st_size
    text = f"expected md5 {archive.md5} ({archive.size:,} bytes), got md5 {found_md5} ({size:,} bytes)"
    if archive.md5_source:
        text += f"; the expected checksum is {archive.md5_source}"
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return f"{text}; it is a web page, perhaps a log-in or error page"
    if size < archive.size:
        return f"{text}; it was cut off, or is another file"
    return text
