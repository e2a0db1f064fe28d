"""Pins in a store: a running process says that it uses an entry, see :mod:`sosr_det.registry.pins`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import is_sha256
from sosr_det.registry.files import logger
from sosr_det.registry.manifest import utc_now
from sosr_det.registry.owner import Owner
from sosr_det.registry.pins import REFRESH_SECONDS, SIZE_LIMIT, FoundPin, PinRecord
from sosr_det.registry.remote.objects import ObjectStore

_NOTE_LIMIT = 1000  # characters


class RemotePin:
    """A pin that this process holds in a store; a context manager that releases it. As a local ``Pin``."""

    def __init__(self, store: ObjectStore, key: str | None, content: bytes) -> None:
        self.key = key  # None: nothing could be written, nothing is held
        self._store = store
        self._content = content
        self._renewed = time.monotonic()

    def refresh(self, min_interval: float = REFRESH_SECONDS) -> None:
        """Say that the work goes on: write the pin again, every ``min_interval`` seconds at most. Never raises."""
        if self.key is None or time.monotonic() - self._renewed < min_interval:
            return
        try:
            self._store.put(self.key, self._content)
            self._renewed = time.monotonic()
        except (OSError, RegistryError) as error:
            logger.warning("could not renew %s: %s", self._store.url.of(self.key), error)

    def release(self) -> None:
        """Remove the pin; calling it again does nothing. Warns, never raises."""
        key, self.key = self.key, None
        if key is None:
            return
        try:
            self._store.delete(key)
        except (OSError, RegistryError) as error:
            logger.warning("could not remove %s; it expires by itself: %s", self._store.url.of(key), error)

    def __enter__(self) -> RemotePin:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def hold_remote(store: ObjectStore, digest: str, note: str, has_manifest: Callable[[], bool]) -> RemotePin:
    """Pin the manifest ``digest`` for this process; where the store cannot be written, warn and hold nothing.

    The copy in this machine's cache stays usable whatever is collected in the store.

    Raises:
        RegistryError: no such manifest, or not a digest.
    """
    if not is_sha256(digest):
        raise RegistryError(f"{digest!r} cannot be held: expected the 64 hex digits of a manifest.")
    owner = Owner.current()
    key = f"pins/{digest}/{owner.label}-{secrets.token_hex(8)}.json"
    content = PinRecord(digest, owner, note[:_NOTE_LIMIT], utc_now()).to_bytes()
    try:
        store.put(key, content)
        pin = RemotePin(store, key, content)
    except (OSError, RegistryError) as error:
        logger.warning(
            "%s is not told that %s is in use, so a collection there may remove it: %s",
            store.url,
            digest,
            error,
        )
        return RemotePin(store, None, content)
    try:
        there = has_manifest()
    except RegistryError as error:
        logger.warning("could not look whether %s is still in %s: %s", digest, store.url, error)
        return pin
    if there:
        return pin
    pin.release()
    raise RegistryError(
        f"there is no manifest {digest} in the registry {store.url}; it may have been collected."
    )


def find_remote_pins(store: ObjectStore, now: float, digest: str | None = None) -> list[FoundPin]:
    """All pins of a registry, or of one manifest; their age is measured to ``now``, in the store's time."""
    infos = store.list("pins" if digest is None else f"pins/{digest}")
    found = []
    for key, content in store.read_many(infos, SIZE_LIMIT).items():
        parts = key.split("/")
        if len(parts) != 3 or isinstance(content, FileNotFoundError):  # released meanwhile
            continue
        if isinstance(content, Exception):
            raise content
        url, age = store.url.of(key), max(0.0, now - (infos[key].modified or now))
        try:
            record = PinRecord.from_bytes(content.data, url, parts[1])  # type: ignore[arg-type]
            found.append(FoundPin(url, parts[1], age, record))  # type: ignore[arg-type]
        except CorruptEntryError as error:
            damage = getattr(error, "damage", None) or Damage(url, "content", "a pin", str(error))
            found.append(FoundPin(url, parts[1], age, None, damage))  # type: ignore[arg-type]
    return found
