"""Changing a ref on a store far away so that of simultaneous changes none is lost.

How depends on what the store can promise:

- ``If-Match`` (S3): the new content is written only over the version that was read, and tried again otherwise. Whether
  the store at that endpoint really checks conditions is found out first, with a write that changes nothing.
- put-if-absent only (Google, Azure, S3 stores without If-Match): a lock object per ref is created first. A holder that
  died is waited for during LEASE_SECONDS, by the waiter's own clock, then its lock is removed.
- ``memory://``: a lock of this process.
- neither (SFTP, WebDAV, ...): written, read back, and written again if somebody else's change came between. The last of
  two writers wins; a warning says so once.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sosr_det.errors import RegistryError
from sosr_det.registry.digest import sha256_hex
from sosr_det.registry.files import logger
from sosr_det.registry.layout import MARKER, MARKER_BYTES
from sosr_det.registry.manifest import utc_now
from sosr_det.registry.refs import SIZE_LIMIT
from sosr_det.registry.remote.objects import S3, ObjectStore

LEASE_SECONDS = 30.0  # after which an unchanged lock object is taken to be a dead process's
TRIES = 60  # of one change against other writers of the same ref
_ABSENT_AND_LOCK = ("gs", "gcs", "az", "abfs", "abfss")

Change = Callable[[bytes | None], bytes | None]
"""From the content that there is (None: no object) to the one that shall be (None: leave it)."""


class RefUpdates:
    """Changes of small objects of one store. ``way``: "if-match", "lock", "process" or "read-back"."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._way: str | None = None

    @property
    def way(self) -> str:
        """What this store can promise; asks an S3 store once. The registry's marker must exist."""
        if self._way is None:
            self._way = self._find_way()
            if self._way == "read-back":
                logger.warning(
                    "%s has no conditional writes: if two processes move the same tag at the same moment, the last one "
                    "wins. Let one process at a time publish there.",
                    self.store.url,
                )
        return self._way

    def _find_way(self) -> str:
        protocol = self.store.url.protocol
        if protocol == "memory":
            return "process"
        if protocol in _ABSENT_AND_LOCK:
            return "lock"
        if protocol not in S3:
            return "read-back"
        # The marker is there, so both writes must be refused; a store that ignores conditions writes the same bytes.
        if self.store.put(MARKER, MARKER_BYTES, absent=True):
            return "read-back"
        return "lock" if self.store.put(MARKER, MARKER_BYTES, version=f'"{"0" * 32}"') else "if-match"

    def update(self, key: str, change: Change) -> tuple[bytes | None, bytes | None]:
        """Replace an object by what ``change`` makes of it; ``change`` may be called again with newer content.

        Returns:
            The content before and after.

        Raises:
            RegistryError: others changed it again and again, or the store failed.
        """
        way = self.way
        if way == "process":
            with self.store.exclusively():
                return self._plain(key, change)
        if way == "lock":
            with self._locked(key) as still_ours:
                return self._plain(key, change, still_ours)
        return self._if_match(key, change) if way == "if-match" else self._read_back(key, change)

    def delete(self, key: str) -> None:
        """Remove an object, never in the middle of another writer's change where the store allows to prevent it."""
        if self.way == "lock":
            with self._locked(key):
                self.store.delete(key)
        else:
            with self.store.exclusively():
                self.store.delete(key)

    def _read(self, key: str, with_version: bool = False) -> tuple[bytes | None, str | None]:
        """Content and version. Only those who need a version ask for it: the store then refuses with FileExistsError
        what changes between the request for its version and the one for its content, as a lock may at any time."""
        try:
            content = self.store.read(key, SIZE_LIMIT, with_version=with_version)
        except FileNotFoundError:
            return None, None
        return content.data, content.version

    def _plain(
        self, key: str, change: Change, still_ours: Callable[[], None] | None = None
    ) -> tuple[bytes | None, bytes | None]:
        old, _ = self._read(key)
        new = change(old)
        if new is None or new == old:
            return old, old
        if still_ours is not None:
            still_ours()
        self.store.put(key, new)
        return old, new

    def _if_match(self, key: str, change: Change) -> tuple[bytes | None, bytes | None]:
        last: tuple[bytes | None, bytes] | None = None
        for turn in range(TRIES):
            try:
                old, version = self._read(key, with_version=True)
            except FileExistsError:  # it changed meanwhile
                _pause(turn)
                continue
            if last is not None and old == last[1]:
                return last  # our write did arrive; its answer was lost, and the second try refused
            new = change(old)
            if new is None or new == old:
                return old, old
            if old is not None and version is None:
                raise RegistryError(
                    f"{self.store.url.of(key)}: the store gave no version (ETag) of it; cannot change it."
                )
            if self.store.put(key, new, absent=old is None, version=version):
                return old, new
            last = (old, new)
            _pause(turn)
        raise self._given_up(key)

    def _read_back(self, key: str, change: Change) -> tuple[bytes | None, bytes | None]:
        for turn in range(TRIES):
            old, _ = self._read(key)
            new = change(old)
            if new is None or new == old:
                return old, old
            self.store.put(key, new)
            if self._read(key)[0] == new:
                return old, new
            _pause(turn)
        raise self._given_up(key)

    def _given_up(self, key: str) -> RegistryError:
        return RegistryError(
            f"{self.store.url.of(key)} was changed by others {TRIES} times while this process tried to. Try again when "
            "fewer processes publish under this tag."
        )

    @contextmanager
    def _locked(self, key: str) -> Iterator[Callable[[], None]]:
        lock = f".locks/{sha256_hex(key.encode())[:32]}.json"
        mine = json.dumps(
            {"key": key, "pid": os.getpid(), "since": utc_now(), "token": secrets.token_hex(16)}
        ).encode()
        self._acquire(lock, mine)
        began = time.monotonic()

        def still_ours() -> None:
            if time.monotonic() - began > LEASE_SECONDS / 2 or self._read(lock)[0] != mine:
                raise RegistryError(
                    f"this process was too slow and lost the lock of {self.store.url.of(key)}. Run again."
                )

        try:
            yield still_ours
        finally:
            if self._read(lock)[0] == mine:
                self.store.delete(lock)

    def _acquire(self, lock: str, mine: bytes) -> None:
        seen: bytes | None = None
        since = began = time.monotonic()
        for turn in range(1_000_000):
            if self.store.put(lock, mine, absent=True):
                return
            holder, _ = self._read(lock)
            if holder == mine:
                return
            now = time.monotonic()
            if holder != seen:
                seen, since = holder, now
            elif holder is not None and now - since > LEASE_SECONDS:
                logger.warning("removing the lock %s of a process that died", self.store.url.of(lock))
                if self._read(lock)[0] == seen:
                    self.store.delete(lock)
                continue
            if now - began > 10 * LEASE_SECONDS:
                break
            _pause(turn)
        raise RegistryError(f"{self.store.url.of(lock)} is held by others all the time. Try again later.")


def _pause(turn: int) -> None:
    time.sleep(random.uniform(0.2, 1.0) * min(0.02 * 1.5 ** min(turn, 20), 1.0))
