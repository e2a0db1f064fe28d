"""Annotation files read one by one: bytes, what tells a changed file, and the parsers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sosr_det.data.voc_annotations.usual import parse_usual
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError

# Device, inode, size in bytes, modification and change time in nanoseconds. The last cannot be set back by `touch`.
Identity = tuple[int, int, int, int, int]
Parsed = tuple[tuple[int, int] | None, list[tuple[str, bool | None, bool, Sequence[float]]]]

_63_BITS = (1 << 63) - 1
_HAS_DIR_FD = {os.open, os.stat} <= os.supports_dir_fd
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class MissingAnnotationError(DataError):
    """An annotation file that was asked for does not exist."""


class Folder:
    """Files of one folder, opened relative to it: with 16,551 files the path to it is worth walking only once."""

    def __init__(self, path: str, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    def identity(self, name: str) -> Identity | None:
        """The file's identity, of what a link points to; None if it cannot be told."""
        try:
            return _identity(os.stat(self._place(name), dir_fd=self._descriptor))
        except (OSError, ValueError):  # a name with a null byte
            return None

    def read(self, name: str) -> tuple[bytes, Identity]:
        """The file's content, and its identity from before it was read.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        path = os.path.join(self.path, name)
        try:
            descriptor = os.open(self._place(name), _READ_ONLY, dir_fd=self._descriptor)
            try:
                status = os.fstat(descriptor)
                content = os.read(descriptor, status.st_size + 1)
                if len(content) != status.st_size:  # still growing, or longer than one read gives
                    while piece := os.read(descriptor, 1 << 20):
                        content += piece
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingAnnotationError(f"{path}: no such file; expected an annotation as XML") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: the annotation cannot be read ({error})") from error
        return content, _identity(status)

    def _place(self, name: str) -> str:
        return name if self._descriptor is not None else os.path.join(self.path, name)


@contextmanager
def open_folder(path: str) -> Iterator[Folder]:
    """A :class:`Folder`; one that does not exist has no files."""
    descriptor = None
    if _HAS_DIR_FD:
        try:
            descriptor = os.open(path or os.curdir, _READ_ONLY | getattr(os, "O_DIRECTORY", 0))
        except (OSError, ValueError):
            descriptor = None  # every single file will say what is wrong
    try:
        yield Folder(path, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def parse(content: bytes, path: str | Path) -> Parsed:
    """What :func:`sosr_det.data.voc_xml.parse_voc_xml` says of a file, fast where the file is of the usual shape.

    Raises:
        DataError: As that.
    """
    usual = parse_usual(content)
    if usual is None:
        annotation = parse_voc_xml(content, str(path))
        return annotation.size, [(o.name, o.truncated, o.difficult, o.box) for o in annotation.objects]
    size, objects = usual
    return size, [
        (name.decode("ascii"), None if truncated is None else truncated == b"1", difficult == b"1",
         (float(xmin), float(ymin), float(xmax), float(ymax)))
        for name, truncated, difficult, xmin, ymin, xmax, ymax in objects
    ]  # fmt: skip


def _identity(status: os.stat_result) -> Identity:
    # Some network file systems use all 64 bits for the first two; our arrays are signed.
    device, inode = status.st_dev & _63_BITS, status.st_ino & _63_BITS
    return device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
