"""Pins: a running process says that it uses an entry, so that a collection leaves that entry alone.

A run's saved config holds ``sosr://sha256:…``; when the tag moves on meanwhile, nothing but the pin leads to the entry.
``pins/<digest>/<host>-<pid>-<nonce>.json`` is written when the run starts, its time is renewed while it runs, and it is
removed at the end. It holds nothing any more once its process is known to be dead (same machine) or has not renewed
it for ``PIN_SECONDS``. A pin is a courtesy to running work, not a tag: to keep an entry, tag it.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sosr_det.errors import RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import canonical_json, is_sha256, sha256_hex
from sosr_det.registry.files import Staging, logger
from sosr_det.registry.layout import RegistryLayout
from sosr_det.registry.manifest import utc_now
from sosr_det.registry.owner import Owner
from sosr_det.registry.strict_json import Fields, integer, parse_json, text, word

PIN_SECONDS = 14 * 24 * 3600.0  # long enough for a job that waits in a queue between two parts
REFRESH_SECONDS = 3600.0
SIZE_LIMIT = 16 * 1024  # bytes
_RETRIES = 10
_NOTE_LIMIT = 1000  # characters


@dataclass(frozen=True)
class PinRecord:
    """What a pin's file says: ``owner`` uses the manifest ``digest`` since ``created`` (UTC) for ``note``."""

    digest: str
    owner: Owner
    note: str
    created: str

    def _fields(self) -> dict[str, object]:
        return {
            "digest": self.digest,
            "host": self.owner.host,
            "pid": self.owner.pid,
            "started": self.owner.started,
            "note": self.note,
            "created": self.created,
        }

    def to_bytes(self) -> bytes:
        """The exact bytes of the file."""
        checksum = sha256_hex(canonical_json(self._fields()))
        return canonical_json(self._fields() | {"checksum": checksum}) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, file: Path, digest: str) -> PinRecord:
        """Read the file ``file`` in the folder of ``digest``.

        Raises:
            CorruptEntryError: damaged, edited, or another digest's.
        """
        try:
            fields = Fields(parse_json(content), "", label="pin")
            record = cls(
                digest=fields.take("digest", word, "64 hex digits"),
                owner=Owner(
                    fields.take("host", word, "a machine"),
                    fields.take("pid", integer(1), "a process number"),
                    fields.maybe("started", integer(0), "a time in ticks"),
                ),
                note=fields.take("note", text, "text"),
                created=fields.take("created", word, "a UTC time"),
            )
            checksum = fields.take("checksum", text, "64 hex digits")
            fields.close()
        except (ValueError, RegistryError) as error:
            raise Damage(str(file), "content", "a pin written by sosr-det", str(error)).error() from None
        if record.to_bytes() != content:
            expected = sha256_hex(canonical_json(record._fields()))
            raise Damage(str(file), "checksum", f"sha256 {expected}", f"sha256 {checksum}").error()
        if record.digest != digest:
            raise Damage(str(file), "digest", digest, record.digest).error()
        return record

    def holds(self, age: float) -> bool:
        """Whether it still counts; ``age`` in seconds since it was last renewed."""
        return age < PIN_SECONDS and not self.owner.is_dead()


class Pin:
    """A pin that this process holds; a context manager that releases it. See :func:`hold`."""

    def __init__(self, layout: RegistryLayout, path: Path | None, content: bytes) -> None:
        self.path = path  # None: the registry cannot be written, nothing is held
        self._layout = layout
        self._content = content
        self._renewed = time.monotonic()

    def refresh(self, min_interval: float = REFRESH_SECONDS) -> None:
        """Say that the work goes on. Cheap: does nothing within ``min_interval`` seconds of the last time.

        A pin that somebody removed is written again. Never raises for what the file system does; it warns.
        """
        if self.path is None or time.monotonic() - self._renewed < min_interval:
            return
        try:
            try:
                os.utime(self.path)
            except FileNotFoundError:
                _write(self._layout, self.path, self._content)
            self._renewed = time.monotonic()
        except (OSError, RegistryError) as error:
            logger.warning("could not renew %s: %s", self.path, error)

    def release(self) -> None:
        """Remove the pin; calling it again does nothing. Never raises for what the file system does."""
        path, self.path = self.path, None
        if path is None:
            return
        try:
            path.unlink(missing_ok=True)
            os.rmdir(path.parent)
        except OSError as error:
            if path.exists():
                logger.warning("could not remove %s; it expires by itself: %s", path, error)

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def hold(layout: RegistryLayout, digest: str, note: str = "") -> Pin:
    """Pin the manifest ``digest`` for this process; where the registry cannot be written, warn and hold nothing.

    ``note`` says for what, e.g. the folder of a run; ``registry gc`` shows it. Takes no lock: a collection looks for
    pins again after it has moved a manifest aside, and this looks for the manifest after the pin is there.

    Raises:
        RegistryError: no such manifest, or not a digest.
    """
    if not is_sha256(digest):
        raise RegistryError(f"{digest!r} cannot be held: expected the 64 hex digits of a manifest.")
    owner = Owner.current()
    path = layout.pins_dir / digest / f"{owner.label}-{secrets.token_hex(8)}.json"
    content = PinRecord(digest, owner, note[:_NOTE_LIMIT], utc_now()).to_bytes()
    try:
        _write(layout, path, content)
        pin = Pin(layout, path, content)
    except RegistryError as error:
        logger.warning(
            "the registry is not told that %s is in use, so a collection there may remove it: %s",
            digest,
            error,
        )
        pin = Pin(layout, None, content)
    for attempt in range(3):
        if layout.manifest_path(digest).is_file():
            return pin
        time.sleep(0.1 * attempt)  # a collection that sees the pin brings the manifest back
    pin.release()
    raise RegistryError(
        f"there is no manifest {digest} in the registry {layout.root}; it may have been collected."
    )


def _write(layout: RegistryLayout, path: Path, content: bytes) -> None:
    for attempt in range(_RETRIES):
        try:
            with Staging(layout.root, layout.tmp_dir) as staging:
                try:
                    staging.place(staging.write([content], path), path)
                except BaseException:
                    staging.rollback()
                    raise
            return
        except RegistryError as error:  # another process may just have removed the empty folder
            if attempt == _RETRIES - 1 or not isinstance(
                error.__cause__, (FileNotFoundError, FileExistsError)
            ):
                raise


@dataclass(frozen=True)
class FoundPin:
    """A pin's file in a registry: its record, or None and the damage; ``age`` in seconds since it was renewed."""

    path: Path
    digest: str
    age: float
    record: PinRecord | None
    damage: Damage | None = None

    @property
    def holds(self) -> bool:
        """Whether it counts. A damaged one does until it expires: its folder says for which manifest."""
        return self.age < PIN_SECONDS if self.record is None else self.record.holds(self.age)


def find_pins(layout: RegistryLayout, digest: str | None = None) -> list[FoundPin]:
    """All pins of a registry, or of one manifest.

    Raises:
        RegistryError: the folder cannot be listed, or is a link.
    """
    digests = [digest] if digest is not None else layout.listdir(layout.pins_dir)
    found = []
    for each in digests:
        folder = layout.pins_dir / each
        for file in layout.listdir(folder):
            path = folder / file
            try:
                age = max(0.0, time.time() - path.lstat().st_mtime)
                content = layout.read(path, SIZE_LIMIT)
                found.append(FoundPin(path, each, age, PinRecord.from_bytes(content, path, each)))
            except FileNotFoundError:  # released meanwhile
                continue
            except RegistryError as error:
                damage = getattr(error, "damage", None)
                if not isinstance(damage, Damage):
                    damage = Damage(str(path), "file", "a readable plain file", str(error))
                found.append(FoundPin(path, each, age, None, damage))
    return found
