"""The writers' lock: at most one process moves files into place; a dead one does not block the others.

It is filelock's ``SoftFileLease``: a marker file, made with ``O_EXCL``, that says who holds it, and whose time a
thread of the holder renews every few seconds. Why this one of filelock's locks:

- ``FileLock`` (flock) does nothing or hangs on some NFS mounts, and cannot say who holds it.
- ``SoftFileLock`` cannot tell whether a holder on another machine still lives: after that machine's crash somebody has
  to remove the file by hand, or a fixed lifetime takes it from a slow but living holder.
- ``StrictSoftFileLock`` never takes a lock from a holder that fell silent; a machine that lost its power would lock
  everybody out until somebody breaks it by hand.
- ``SoftReadWriteLock`` has the same lease, and shared locks for readers, which take none here.
- ``SoftFileLease`` needs only ``O_EXCL``, rename and times, as NFS has them. A dead process of the same machine is
  noticed at once (process number and start time); one of another machine when a waiter has watched its marker for
  ``LEASE_SECONDS`` without a change, by the waiter's own clock, so the machines' clocks need not agree.

filelock leaves one gap: a process killed between creating the marker and writing its record into it leaves an empty
one, which filelock respects for ever, because its first versions held locks that way. Nobody ever did with this
file, so a waiter removes a marker that it has seen empty for ``EMPTY_SECONDS``.

The price of a lease: a holder that is paused for longer (a stopped process, a suspended machine) loses it and does
not know. So :meth:`WriteLock.check` reads the marker again, and writers call it directly before and after each step
that changes something; blobs and manifests are named by their content, so with them even a late write does no harm.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sosr_det.errors import RegistryError
from sosr_det.registry.files import ensure_dir, os_errors, refuse_links
from sosr_det.registry.owner import Owner

LEASE_SECONDS = 30.0  # the same for everybody: filelock refuses a holder with another value
LOCK_TIMEOUT = 90.0  # seconds; longer than the lease, or a crashed machine's lock could never be taken over
EMPTY_SECONDS = 2.0  # as long as filelock waits for other unreadable records; writing one takes milliseconds
_POLL = 0.02  # seconds between two tries


class LockLostError(RegistryError):
    """The lock was taken over by another process while this one held it."""


@dataclass(frozen=True)
class WriteLock:
    """A lock that is held: ``check`` raises :class:`LockLostError` when it is not any more."""

    check: Callable[[], None]


@contextmanager
def write_lock(root: Path, path: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[WriteLock]:
    """Hold the lock file ``path`` of the registry ``root`` for the block.

    Raises:
        RegistryError: others held it for ``timeout`` seconds (the holder is named), or it cannot be created.
    """
    from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

    ensure_dir(root, path.parent)
    refuse_links(root, path)
    lock = SoftFileLease(path, lease_duration=LEASE_SECONDS, poll_interval=_POLL)
    deadline = time.monotonic() + timeout
    empty = _EmptyMarker(path)
    with os_errors(path, "lock"):
        try:
            while not lock.is_locked:
                left = deadline - time.monotonic()
                try:
                    lock.acquire(timeout=max(0.0, min(left, EMPTY_SECONDS / 2)))
                except Timeout:  # an OSError too, so it is caught before os_errors sees it
                    if left <= 0:
                        raise
                    empty.remove_if_left()
        except Timeout:
            raise RegistryError(
                f"the registry is locked by {_holder(lock.owner, path)}; waited {timeout:g} seconds for {path}. "
                "Wait for it to finish and run again. The lock of a process that died goes away by itself."
            ) from None
        except LeaseSettingsMismatch as error:
            raise RegistryError(
                f"cannot lock the registry: {error}. Another version of sosr-det is writing; use the same one."
            ) from None
    token = lock.token

    def check() -> None:
        owner = lock.owner
        if owner is None or owner.token != token:
            raise LockLostError(
                f"this process was paused for more than {LEASE_SECONDS:g} seconds and lost the lock {path} to "
                f"{_holder(owner, path) if owner else 'another process'}; what it had not finished is left undone. "
                "Look with `sosr-det registry ls`, and run again."
            )

    try:
        yield WriteLock(check)
    finally:
        lock.release()


class _EmptyMarker:
    """Watches for a marker without a record, and removes one that stays so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0

    def remove_if_left(self) -> None:
        found = self._look(self._path)
        if found is None or found != self._seen:
            self._seen, self._since = found, time.monotonic()
            return
        if time.monotonic() - self._since < EMPTY_SECONDS:
            return
        # Another waiter may have removed it and made its own since: look again at what was taken away.
        suffix = f"empty-{Owner.current().label}-{secrets.token_hex(8)}"
        aside = self._path.with_name(f"{self._path.name}.{suffix}")
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        if self._look(aside) != found:
            with suppress(OSError):  # someone has the lock already; the one whose marker this is will notice
                os.link(aside, self._path)
        os.unlink(aside)
        self._seen = None

    @staticmethod
    def _look(path: Path) -> tuple[int, int, int] | None:
        try:
            state = path.lstat()
        except FileNotFoundError:
            return None
        return (state.st_dev, state.st_ino, state.st_mtime_ns) if state.st_size == 0 else None


def _holder(owner: object, path: Path) -> str:
    """Who holds the lock, and since when: the lock's folder changes only when the lock does."""
    try:
        since = datetime.fromtimestamp(path.parent.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OSError:
        since = "an unknown time"
    if owner is None:
        return f"another process (since {since})"
    return f"process {owner.pid} on {owner.hostname} (since {since})"  # type: ignore[attr-defined]
