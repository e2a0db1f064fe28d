"""Which folders a list of images was read from, and whether anything was added to or removed from one since."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RACY_SECONDS = 2.0  # the coarsest clock of a file system in use (FAT)

# Asking a file server takes half a millisecond for each folder, nearly all of it waiting.
_THREADS = 16
_ROWS_PER_TASK = 64


@dataclass(frozen=True, eq=False)
class Stamps:
    """Modification times and inodes.

    A folder's modification time changes with every entry that is added, removed or renamed in it, and with nothing
    else; a file's with its content. A folder that was moved away and replaced has another inode.

    Attributes:
        places: relative paths of folders and lists; ``""`` is the root itself.
        values: int64 ``[N, 3]``: modification time in ns, inode, and of files their size in bytes (of folders 0).
    """

    places: Sequence[str]
    values: np.ndarray

    def difference(self, root: Path) -> str | None:
        """Why the list must be read again, or None."""
        now = take_stamps(root, self.places)
        different = np.flatnonzero((now.values != self.values).any(axis=1))
        if not len(different):
            return None
        place, then = self.places[different[0]], now.values[different[0]]
        more = f" and {len(different) - 1} others" if len(different) > 1 else ""
        what = "is gone" if then[1] < 0 else "changed"
        return f"{root / place}{more} {what}"

    def too_new(self, started: float) -> bool:
        """Whether something changed so shortly before ``started`` that another change could have the same time."""
        return bool((self.values[:, 0] > (started - RACY_SECONDS) * 1e9).any())


def take_stamps(root: Path, places: Iterable[str]) -> Stamps:
    """The stamps of folders and files below ``root``; what is missing has the values -1."""
    places = list(places)
    values = np.full((len(places), 3), -1, np.int64)

    def fill(first: int) -> None:
        for row in range(first, min(first + _ROWS_PER_TASK, len(places))):
            try:
                status = os.stat(os.path.join(root, places[row]))
            except OSError:
                continue
            size = status.st_size if not _is_folder(status) else 0
            # Some file systems have inodes above 2**63.
            values[row] = status.st_mtime_ns, status.st_ino & (2**63 - 1), size

    if len(places) <= _ROWS_PER_TASK:
        fill(0)
    else:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="stamps") as executor:
            list(executor.map(fill, range(0, len(places), _ROWS_PER_TASK)))
    return Stamps(places, values)


def _is_folder(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o040000
