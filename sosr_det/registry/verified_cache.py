"""Remembers which blobs were read whole and found right, so that an unchanged file need not be read again.

One small file per blob, for this user alone and outside the registry (see ``sosr_det/cache_root.py``): a registry
that others can write must not vouch for itself. A blob counts as unchanged while its device, inode, size, modification
time and change time are the ones that it was hashed with; the change time cannot be set back by ``touch``. A file that
was written within ``RACY_SECONDS`` before it was hashed is not remembered, because it could have changed again within
one tick of the file system's clock.

A bit that rots on the disk changes none of these: only reading shows it. So ``Registry.load`` never asks here (it
hashes what it returns), nor do ``verify --all`` and ``--no-cache``. Whatever is wrong with a file of this cache, it
is ignored and the blob is read.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from sosr_det.cache_root import cache_root, is_private
from sosr_det.errors import RegistryError
from sosr_det.registry.digest import canonical_json, sha256_hex
from sosr_det.registry.files import logger, read_small
from sosr_det.registry.manifest import utc_now

RACY_SECONDS = 2.0
_SIZE_LIMIT = 16 * 1024  # bytes


class VerifiedCache:
    """What this user's processes have verified in the registry ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def checked_at(self, blob: Path, digest: str) -> str | None:
        """When this very file was found to be the blob of ``digest`` (UTC text), or None: read it."""
        try:
            file = self._file(blob, digest)
            if file is None or not is_private(file):
                return None
            record = json.loads(read_small(file, _SIZE_LIMIT))
            checked = record["checked"]
            expected = _record(blob, digest, blob.lstat(), checked)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, RegistryError):
            return None
        return checked if record == expected else None

    def remember(self, blob: Path, digest: str, before: os.stat_result, started: float) -> None:
        """Note that ``blob`` was read whole and is right.

        ``before``: its status before reading; ``started``: when that began, in seconds since the epoch.
        """
        try:
            after = blob.lstat()
            changed = max(after.st_mtime_ns, after.st_ctime_ns)
            if _identity(before) != _identity(after) or changed > (started - RACY_SECONDS) * 1e9:
                return
            file = self._file(blob, digest)
            if file is None:
                return
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(8)}")
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with open(os.open(staged, flags, 0o600), "wb") as out:
                    out.write(canonical_json(_record(blob, digest, after, utc_now())))
                os.replace(staged, file)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
        except (OSError, ValueError) as error:
            logger.debug("%s is right, but that could not be remembered: %s", blob, error)

    def forget(self, blob: Path, digest: str) -> None:
        """Remove what is remembered of a blob."""
        try:
            if file := self._file(blob, digest):
                file.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("could not forget %s: %s", blob, error)

    def _file(self, blob: Path, digest: str) -> Path | None:
        try:
            folder = cache_root() / "verified"
        except RuntimeError:  # no home folder
            return None
        if Path(os.path.realpath(folder)).is_relative_to(self._root):
            return None
        key = sha256_hex(canonical_json([os.fspath(blob), digest]))
        return folder / key[:2] / f"{key}.json"


def _identity(status: os.stat_result) -> dict[str, int]:
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def _record(blob: Path, digest: str, status: os.stat_result, checked: object) -> dict[str, object]:
    record: dict[str, object] = {"path": os.fspath(blob), "digest": digest, "checked": checked}
    record |= _identity(status)
    return record | {"checksum": sha256_hex(canonical_json(record))}
