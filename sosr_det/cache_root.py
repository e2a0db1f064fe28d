"""Where this user's files that can be made again are kept: copies of remote registries, read annotations."""

from __future__ import annotations

import os
import time
from pathlib import Path

ENV_CACHE = "SOSR_CACHE"
_STALE_SECONDS = 24 * 3600


def cache_root() -> Path:
    """``$SOSR_CACHE``, else ``$XDG_CACHE_HOME/sosr-det``, else ``~/.cache/sosr-det``. Nothing is created.

    Raises:
        RuntimeError: there is no home folder.
    """
    if own := os.environ.get(ENV_CACHE):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The XDG specification: a relative path there is invalid and must be ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return folder / "sosr-det"


def is_private(file: Path | int) -> bool:
    """Whether only this user can have written the file, given by path (a link is not followed) or by descriptor.

    Windows has no such modes.

    Raises:
        OSError: there is no such file.
    """
    if os.name == "nt":
        return True
    status = os.fstat(file) if isinstance(file, int) else file.lstat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def remove_stale_parts(folder: Path) -> None:
    """Remove ``*.part`` files that writers that were killed have left, a day later: no writer takes that long."""
    for part in folder.glob("*.part"):
        try:
            if part.lstat().st_mtime < time.time() - _STALE_SECONDS:
                part.unlink()
        except OSError:  # another process was faster, or the file is another user's
            continue
