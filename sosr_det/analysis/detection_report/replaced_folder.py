"""A folder that is replaced as a whole: readers see the old report or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sosr_det.errors import ConfigError

_ATTEMPTS = 5  # against others who write the same report at the same time


@contextlib.contextmanager
def replaced_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``target`` if the block succeeds, and vanishes if it does not.

    The exchange takes two renames; between them, for an instant, there is no folder at all.

    Args:
        target: The folder to make or replace; its parent is made.
        marker: A file that each such folder holds. What lies at ``target`` without it is somebody else's.

    Raises:
        ConfigError: ``target`` exists and is not such a folder, or the parent cannot be one.
    """
    target = Path(target)
    require_replaceable(target, marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hidden siblings: on the same file system, so that they can be renamed into place.
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-new-", dir=target.parent))
    try:
        yield fresh
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)  # mkdtemp's are for the owner alone
        _exchange(fresh, target, marker)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def require_writable(target: Path, marker: str) -> None:
    """Refuse a place where :func:`replaced_folder` would fail, before the work; nothing is left there.

    Raises:
        ConfigError: as :func:`replaced_folder`, or nothing can be written there.
    """
    require_replaceable(Path(target), marker)
    try:
        try_writing(Path(target))
    except OSError as error:
        raise ConfigError(
            f"{target}: cannot be written: {error.strerror or error}. Choose another folder."
        ) from error


def try_writing(target: Path) -> None:
    """Make a folder where ``target`` would be, as far as its parents are there, and remove it again.

    Raises:
        OSError: it cannot be made.
    """
    existing = next(path for path in target.absolute().parents if path.exists())
    os.rmdir(tempfile.mkdtemp(prefix=f".{target.name}-new-", dir=existing))


def require_replaceable(target: Path, marker: str) -> None:
    """Refuse to replace anything that is not a folder of ours; see :func:`replaced_folder`."""
    existing = next(path for path in (target.parent, *target.parent.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{target}: {existing} is a file, expected a folder. Choose another folder.")
    if not target.is_symlink() and not target.exists():
        return
    if target.is_symlink() or not target.is_dir():
        raise ConfigError(
            f"{target} is not a folder; it is left as it is. Move it, or choose another folder."
        )
    if any(target.iterdir()) and not (target / marker).is_file():
        raise ConfigError(
            f"{target} exists and is not a report (no {marker} in it); it is left as it is. "
            "Move it, or choose another folder."
        )


def _exchange(fresh: Path, target: Path, marker: str) -> None:
    for attempt in range(_ATTEMPTS):
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(target, aside)
            try:
                os.rename(fresh, target)
                return
            except OSError:
                if (
                    not target.exists()
                ):  # not because somebody else's new report came first: put the old one back
                    os.rename(aside, target)
                    raise
                if attempt == _ATTEMPTS - 1:
                    raise
                require_replaceable(target, marker)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
