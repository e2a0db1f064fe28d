"""A folder of shards, on this machine or behind a URL that fsspec knows."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sosr_det.errors import DataError


class Storage:
    """Files of one folder, by name.

    Args:
        place: a folder, or a URL such as ``s3://bucket/imagenet`` (``file://`` is the folder).

    Raises:
        DataError: a URL that fsspec does not know, whose package is missing, or a chained one (``::``).
    """

    def __init__(self, place: str | Path) -> None:
        text = str(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        self._url = text if is_url(text) else None
        self.folder = None if self._url else Path(text)
        if self._url and "::" in self._url:
            raise DataError(f"{shown(text)}: chained addresses (::) are not read; name the store alone.")
        self._fs, self._path, self._process = None, "", None
        if self._url:
            _ = self.filesystem  # an unknown protocol is told now

    def __str__(self) -> str:
        return shown(self._url) if self._url else str(self.folder)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_fs": None, "_process": None}

    @property
    def filesystem(self) -> Any:
        """fsspec's file system, one for each process: its threads and connections do not survive a fork."""
        if self._process != os.getpid():
            import fsspec.core

            forked = self._process is not None
            if forked and "fsspec.asyn" in __import__("sys").modules:
                fsspec.asyn.reset_lock()
            try:
                self._fs, self._path = fsspec.core.url_to_fs(self._url, skip_instance_cache=forked)
            except (ValueError, ImportError) as error:
                raise DataError(f"{self} cannot be opened: {error}") from error
            self._process = os.getpid()
        return self._fs

    def below(self, name: str) -> Storage:
        """The folder ``name`` in this one."""
        return Storage(f"{self._url.rstrip('/')}/{name}" if self._url else self.folder / name)

    def path(self, name: str) -> str:
        """What :attr:`filesystem` calls the file."""
        _ = self.filesystem
        return f"{self._path.rstrip('/')}/{name}"

    def where(self, name: str) -> str:
        """What messages call the file."""
        return f"{str(self).rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name -> size in bytes of every file; empty where there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        if self.folder is not None:
            if not self.folder.is_dir():
                return {}
            with os.scandir(self.folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        try:
            with told_as_os_error():
                self.filesystem.invalidate_cache()
                listed = self.filesystem.ls(self._path, detail=True)
                found = {item["name"]: item["size"] for item in listed if item["type"] == "file"}
                unknown = [path for path, size in found.items() if size is None]  # of a web server's listing
                found |= dict(zip(unknown, self.filesystem.sizes(unknown), strict=True)) if unknown else {}
        except FileNotFoundError:
            return {}
        return {path.rpartition("/")[2]: size for path, size in found.items()}

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            OSError: it is missing or cannot be read.
        """
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        with told_as_os_error():
            return self.filesystem.cat_file(self.path(name))

    def open(self, name: str) -> Any:
        """A file, to be read from its beginning to its end.

        Raises:
            OSError: it is missing or cannot be read.
        """
        return (
            open(self.folder / name, "rb")
            if self.folder is not None
            else self.filesystem.open(self.path(name))
        )

    def put(self, file: Path, name: str) -> None:
        """Move a local file here under ``name``, as a whole; ``file`` is gone afterwards.

        Raises:
            OSError: it could not be written, or the store says that it has another size.
        """
        if self.folder is not None:
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(file, self.folder / name)
            _sync_folder(self.folder)
            return
        # Object stores show a file when it is complete. Others may show a part, which index.json does not name yet.
        size = file.stat().st_size
        with told_as_os_error():
            self.filesystem.put_file(str(file), self.path(name))
            self.filesystem.invalidate_cache()
            found = self.filesystem.size(self.path(name))
        if found != size:
            raise OSError(f"{self.where(name)} has {found} bytes after {size} were written")
        file.unlink()

    def write(self, name: str, content: bytes) -> None:
        """Write a small file as a whole.

        Raises:
            OSError: it could not be written.
        """
        if self.folder is None:
            with told_as_os_error():
                self.filesystem.pipe_file(self.path(name), content)
                self.filesystem.invalidate_cache()
            return
        staged = self.folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.part"
        try:
            with open(staged, "xb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(staged, self.folder / name)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
        elif self.filesystem.exists(self.path(name)):
            self.filesystem.rm_file(self.path(name))

    def make(self) -> None:
        """Make the folder, if it is one."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            with told_as_os_error():
                self.filesystem.makedirs(self._path, exist_ok=True)


@contextmanager
def told_as_os_error() -> Iterator[None]:
    """Stores have exceptions of their own (S3 without credentials, a web server's 403): they are OSErrors here."""
    try:
        yield
    except (OSError, DataError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def is_url(text: str) -> bool:
    """Whether a data root is an address instead of a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def shown(url: str) -> str:
    """An address for messages: without a name and password in it."""
    return re.sub(r"//[^/@]*@", "//", url)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(descriptor)
