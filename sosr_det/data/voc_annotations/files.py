"""Annotation files: their bytes, what tells a changed file, and the parsers."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sosr_det.data.voc_annotations.table import RawObject
from sosr_det.data.voc_annotations.usual import parse_usual
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError

# Device, inode, size in bytes, modification and change time in nanoseconds. The last cannot be set back by `touch`.
Identity = tuple[int, int, int, int, int]
UNKNOWN: Identity = (-1, -1, -1, -1, -1)

# So many files are opened ahead of the one that is read, for a disk to work on all of them meanwhile: with nothing in
# the page cache, reading 16,551 files takes a fifth of the time.
_AHEAD = 128
_63_BITS = (1 << 63) - 1
_HAS_DIR_FD = {os.open, os.stat} <= os.supports_dir_fd
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FADVISE = getattr(os, "posix_fadvise", None)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


class MissingAnnotationError(DataError):
    """An annotation file that was asked for does not exist."""


class Folder:
    """Files of one folder, opened relative to it, so that the path to it is walked only once."""

    def __init__(self, path: str, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    def identities(self, names: Sequence[str]) -> list[Identity]:
        """Each file's identity, of what a link points to; :data:`UNKNOWN` if it cannot be told."""
        found = []
        for name in names:
            try:
                found.append(_identity(os.stat(self._place(name), dir_fd=self._descriptor)))
            except (OSError, ValueError):  # ValueError: a name with a null byte
                found.append(UNKNOWN)
        return found

    def read(self, names: Sequence[str]) -> Iterator[tuple[bytes, Identity] | DataError]:
        """Each file's content with its identity from before it was read, or why it cannot be read."""
        ahead: deque[int | Exception] = deque()
        depth = _AHEAD
        next_to_open = 0
        try:
            for name in names:
                while next_to_open < len(names) and len(ahead) < depth:
                    opened = self._open(names[next_to_open])
                    if isinstance(opened, OSError) and opened.errno in _TOO_MANY_OPEN and ahead:
                        depth = max(1, len(ahead) // 2)  # leave some to others
                        break
                    ahead.append(opened)
                    next_to_open += 1
                yield self._read(name, ahead.popleft())
        finally:
            for opened in ahead:
                if isinstance(opened, int):
                    os.close(opened)

    def _open(self, name: str) -> int | Exception:
        try:
            descriptor = os.open(self._place(name), _READ_ONLY, dir_fd=self._descriptor)
        except (OSError, ValueError) as error:
            return error
        if _FADVISE is not None:
            try:  # noqa: SIM105  (suppress costs more than the call)
                _FADVISE(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            except OSError:  # advice only; a pipe cannot take it
                pass
        return descriptor

    def _read(self, name: str, opened: int | Exception) -> tuple[bytes, Identity] | DataError:
        try:
            if isinstance(opened, Exception):
                raise opened
            try:
                status = os.fstat(opened)
                content = os.read(opened, status.st_size + 1)
                if len(content) != status.st_size:  # still growing, or longer than one read gives
                    while piece := os.read(opened, 1 << 20):
                        content += piece
            finally:
                os.close(opened)
        except (OSError, ValueError) as error:
            path = os.path.join(self.path, name)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return _caused(
                    MissingAnnotationError(f"{path}: no such file; expected an annotation as XML"), error
                )
            return _caused(DataError(f"{path}: the annotation cannot be read ({error})"), error)
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


def parse(content: bytes, *path: str) -> tuple[tuple[int, int] | None, list[RawObject]]:
    """Size and objects of an annotation as :func:`sosr_det.data.voc_xml.parse_voc_xml` finds them, usually faster.

    Args:
        content: The file's bytes.
        path: Its name, for messages; in parts, which are only joined if need be.

    Raises:
        DataError: As that.
    """
    usual = parse_usual(content)
    if usual is not None:
        return usual
    annotation = parse_voc_xml(content, os.path.join(*path))
    return annotation.size, [(o.name, o.truncated, o.difficult, *o.box) for o in annotation.objects]


def _identity(status: os.stat_result) -> Identity:
    # Some network file systems use all 64 bits for the first two; our arrays are signed.
    device, inode = status.st_dev & _63_BITS, status.st_ino & _63_BITS
    return device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _caused(problem: DataError, cause: Exception) -> DataError:
    problem.__cause__ = cause
    return problem
