"""Reading and writing single files safely: no links followed, no half-written file in place."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType

from sosr_det.errors import RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.owner import this_host

TEMPORARY = ".part"  # ending of the names of temporary files

logger = logging.getLogger("sosr_det.registry")

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM}


def free_bytes(path: Path) -> int:
    """Free bytes for this user on the file system of ``path`` or of its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def os_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an ``OSError`` in the block into a :class:`RegistryError` that names ``path`` and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            try:
                free = f"{free_bytes(path)} bytes are free there"
            except OSError:
                free = "the free space could not be read"
            advice = f"the disk or your quota is full ({free}); free some space, or use another --registry"
        elif error.errno in _DENIED:
            advice = "you may not do that there; ask the owner of the folder for access"
        elif error.errno == errno.EROFS:
            advice = "the file system is read-only; publish to a registry on a writable one"
        else:
            advice = "check the disk and its mount"
        raise RegistryError(f"cannot {action} {path}: {error.strerror or error}; {advice}.") from error


def refuse_links(root: Path, path: Path) -> None:
    """Raise :class:`RegistryError` unless ``path`` lies in ``root`` without a symbolic link on the way.

    ``root`` must be resolved already: the registry's own folder may be reached through a link.
    """
    try:
        below = path.relative_to(root).parts
    except ValueError:
        below = (os.pardir,)
    linked = os.pardir in below
    place = str(root)
    for part in below:
        place = f"{place}{os.sep}{part}"
        try:
            if stat.S_ISLNK(os.lstat(place).st_mode):
                linked = True
                break
        except OSError:  # nothing there, so nothing below it either
            break
    if linked:
        raise RegistryError(
            f"{path} leads to {os.path.realpath(path)} through a symbolic link; a registry ({root}) holds plain files "
            "and folders only. Remove the link and publish again."
        )


def open_regular(path: Path) -> FileIO:
    """Open a plain file for unbuffered reading; a link, a folder, a pipe or a device is refused.

    Raises:
        FileNotFoundError: there is no such file.
        RegistryError: it is no plain file, or it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.path.islink(path):  # Path.is_symlink raises where the folder may not be entered
            raise RegistryError(
                f"{path} is a symbolic link; expected a plain file. Remove the link."
            ) from error
        with os_errors(path, "read"):
            raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RegistryError(f"{path} is not a plain file (a folder, pipe or device?). Remove or rename it.")
    return FileIO(fd, "rb")


def read_small(path: Path, limit: int) -> bytes:
    """All bytes of a plain file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptEntryError: it is larger than ``limit``.
        RegistryError: not a plain file, or unreadable.
    """
    with open_regular(path) as file, os_errors(path, "read"):
        pieces: list[bytes] = []
        left = limit + 1
        while left and (piece := file.read(min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise Damage(str(path), "size", f"at most {limit} bytes", "more").error()
    return b"".join(pieces)


def fsync_dir(path: Path) -> None:
    """Make the names in a folder durable. Does nothing on Windows, where folders cannot be synced."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ensure_dir(root: Path, path: Path) -> None:
    """Create ``path`` below an existing ``root``, durably and with the umask's mode; refuse links.

    Raises:
        RegistryError: a link is in the way, or a folder cannot be created.
    """
    refuse_links(root, path)
    if path.is_dir():
        return
    if path != root:
        ensure_dir(root, path.parent)
    with os_errors(path, "create the folder"):
        try:
            path.mkdir()
        except FileExistsError:
            if path.is_dir():
                return
            raise
        fsync_dir(path.parent)


class Staging:
    """Files that are first written whole into ``tmp_dir``, then moved into place one by one.

    Leaving the ``with`` block removes what was staged and not placed. :meth:`rollback` takes back what
    was placed; call it while other writers are still locked out. ``guard``, if set, is called directly before
    each change of a file in place, and raises when that may not be done any more.
    """

    def __init__(self, root: Path, tmp_dir: Path) -> None:
        self.guard: Callable[[], None] | None = None
        self._root = root
        self._tmp_dir = tmp_dir
        self._staged: set[Path] = set()
        self._placed: list[tuple[Path, Path | None]] = []

    def __enter__(self) -> Staging:
        ensure_dir(self._root, self._tmp_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._staged:
            try:
                path.unlink(missing_ok=True)
            except OSError as failure:
                logger.warning("could not remove the temporary file %s: %s", path, failure)

    def write(self, chunks: Iterable[bytes | memoryview], target: Path) -> Path:
        """Write the chunks to a new file in ``tmp_dir`` and sync it; ``target`` is named in errors.

        The file gets mode 0666 less the umask, so that a shared registry stays readable for the group.

        Raises:
            RegistryError: disk full, no permission, read-only file system or another OS error.
        """
        path = self._new_path()
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        )
        self._staged.add(path)
        with os_errors(target, "write"):
            fd = os.open(path, flags, 0o666)
            try:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view.nbytes:
                        view = view[os.write(fd, view) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        return path

    def _new_path(self) -> Path:
        return self._tmp_dir / f"{this_host()}-{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY}"

    def _check(self) -> None:
        if self.guard is not None:
            self.guard()

    def place(self, staged: Path, target: Path, keep_old: bool = False) -> None:
        """Move a staged file to ``target`` atomically and make the name durable.

        With ``keep_old`` a file that ``target`` replaces is kept aside for :meth:`rollback`; without it
        the replaced file is taken to be worthless (a damaged copy of the same content).

        Raises:
            RegistryError: an OS error, or a symbolic link on the way to ``target``.
        """
        ensure_dir(self._root, target.parent)
        refuse_links(self._root, target)
        existed = target.exists()
        backup = None
        if existed and keep_old:
            with os_errors(target, "read"):
                old = target.read_bytes()
            backup = self.write([old], target)
        self._check()
        with os_errors(target, "put in place"):
            os.replace(staged, target)
            self._staged.discard(staged)
            if backup is not None or not existed:
                self._placed.append((target, backup))
            fsync_dir(target.parent)

    def remove(self, target: Path) -> None:
        """Take a file away: it is moved into ``tmp_dir``, from where :meth:`rollback` brings it back.

        Raises:
            FileNotFoundError: there is no such file.
            RegistryError: another OS error, or a symbolic link on the way to ``target``.
        """
        refuse_links(self._root, target)
        aside = self._new_path()
        self._check()
        try:
            with os_errors(target, "remove"):
                os.replace(target, aside)
        except RegistryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None
            raise
        self._staged.add(aside)
        self._placed.append((target, aside))
        with os_errors(target, "remove"):
            fsync_dir(target.parent)

    def rollback(self, unguarded: bool = False) -> None:
        """Take back what was placed or removed, last first: the old file returns, a new one goes.

        If one cannot be taken back, that is logged and those placed before it stay as well, because it may
        need them: a ref must never be left without its manifest. The old files then stay in ``tmp_dir``. Nothing
        is taken back when ``guard`` raises, except with ``unguarded``, which is for files that are named by their
        content.
        """
        try:
            if not unguarded:
                self._check()
        except RegistryError as error:
            logger.warning("not taking back what was written: %s", error)
            self._placed.clear()
        while self._placed:
            target, backup = self._placed[-1]
            try:
                if backup is None:
                    target.unlink(missing_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)  # gone with the last tag of a name
                    os.replace(backup, target)
                    self._staged.discard(backup)
            except OSError as failure:
                logger.warning("could not take back %s: %s", target, failure)
                break
            self._placed.pop()
        for target, backup in self._placed:
            if backup is not None:  # maybe the only copy: leaving the block must not remove it
                self._staged.discard(backup)
                logger.warning("what %s was before is kept as %s", target, backup)
        self._placed.clear()
