"""Where things lie in a store (keys) and in its cache (paths): the same relative places."""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from sosr_det.cache_root import cache_root
from sosr_det.errors import RegistryError
from sosr_det.registry import refs
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import canonical_json
from sosr_det.registry.files import TEMPORARY, Staging, ensure_dir, logger, os_errors, read_small
from sosr_det.registry.layout import ENV_ROOT, MARKER, MARKER_BYTES, RegistryLayout
from sosr_det.registry.manifest import SIZE_LIMIT
from sosr_det.registry.names import check_name, check_tag
from sosr_det.registry.offline import ENV_OFFLINE
from sosr_det.registry.remote.faults import RemoteError, offline_error
from sosr_det.registry.remote.objects import ObjectStore
from sosr_det.registry.remote.urls import RemoteUrl

_STALE_SECONDS = 24 * 3600  # after which a temporary file of the cache is a dead download's
_ORIGIN = "origin.json"


def blob_key(tensors_digest: str) -> str:
    """The key of a blob."""
    return f"blobs/sha256/{tensors_digest[:2]}/{tensors_digest}.safetensors"


def manifest_key(digest: str) -> str:
    """The key of a manifest."""
    return f"manifests/sha256/{digest}.json"


def ref_key(name: str, tag: str) -> str:
    """The key of a ref. Raises :class:`RegistryError` when name or tag are not allowed."""
    return f"refs/{check_name(name)}/{check_tag(tag)}.json"


class CacheLayout(RegistryLayout):
    """The local copy of a remote registry: a registry folder with what was used, and the refs last seen."""

    def __init__(self, url: RemoteUrl) -> None:
        super().__init__(cache_root() / "registries" / url.folder_name)
        self.url = url

    def ready(self) -> None:
        """Create the folder unless it is there.

        Raises:
            RegistryError: it cannot be written, or holds something else.
        """
        marker = self.root / MARKER
        if not marker.is_file():
            with os_errors(self.root, "create the cache"):
                cache_root().mkdir(
                    mode=0o700, parents=True, exist_ok=True
                )  # it vouches for tags while offline
            self.create()
            with Staging(self.root, self.tmp_dir) as staging:
                origin = self.root / _ORIGIN
                staging.place(staging.write([canonical_json({"url": str(self.url)}) + b"\n"], origin), origin)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what downloads that were killed long ago left."""
        try:
            for row in os.scandir(self.tmp_dir):
                if time.time() - row.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(row.path)
        except OSError as error:
            logger.debug("%s: %s", self.tmp_dir, error)

    def store(self, path: Path, content: bytes) -> None:
        """Write one small file of the cache, whole; the same content only gets the time of now.

        It is not synced: after a crash of the machine it may be damaged, is seen to be, and is fetched again.
        """
        self.ready()
        try:
            if read_small(path, max(SIZE_LIMIT, refs.SIZE_LIMIT)) == content:
                with os_errors(path, "write"):
                    os.utime(path)
                return
        except (FileNotFoundError, RegistryError):
            pass
        ensure_dir(self.root, path.parent)
        part = self.tmp_dir / f"{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY}"
        with os_errors(path, "write"):
            part.write_bytes(content)
            os.replace(part, path)

    def forget(self, path: Path) -> None:
        """Remove a file of the cache; one that is not there is no error."""
        self.refuse_links(path)
        with os_errors(path, "remove"):
            path.unlink(missing_ok=True)

    def seen(self, name: str, tag: str) -> str | None:
        """When the ref was last read from the store (UTC), or None."""
        try:
            then = self.ref_path(name, tag).lstat().st_mtime
        except OSError:
            return None
        return datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RemoteMarker:
    """The ``registry.json`` of a remote registry: read once per process, written when the registry is created."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._good = False

    def require(self) -> None:
        """Check that the URL is a registry of a layout known here.

        Raises:
            RegistryError: it is none, a newer sosr-det made it, or the store cannot be asked.
            CorruptEntryError: the marker is damaged.
        """
        if self._good:
            return
        url = self._store.url
        try:
            content = self._store.read(MARKER, 4096).data
        except FileNotFoundError:
            raise RegistryError(
                f"there is no registry at {url}: it holds no {MARKER}. Check the URL (--registry, ${ENV_ROOT}); "
                "publishing or pushing there creates one."
            ) from None
        if content == MARKER_BYTES:
            self._good = True
            return
        if content.startswith(b'{"format":"sosr-det registry","layout_version":') and content.endswith(
            b"}\n"
        ):
            raise RegistryError(
                f"{url} has another layout ({content.decode('utf-8', 'replace').strip()}), this sosr-det knows "
                "layout_version 1. Upgrade sosr-det."
            )
        expected = MARKER_BYTES.decode("ascii").strip()
        raise Damage(url.of(MARKER), "content", expected, repr(content[:120])).error(
            advice="If this is a registry, write the expected line and a line end there; nothing else is stored in it."
        )

    def create(self) -> None:
        """Make the URL a registry unless it is one. Safe when several processes do so at once.

        Raises:
            RegistryError: other things lie there, or the store cannot be written.
        """
        if self._good:
            return
        self._store.refuse_writing()
        try:
            self.require()
            return
        except RegistryError:
            if MARKER in (present := self._store.top_names()):
                raise
        own = {"blobs", "manifests", "refs", "pins", "tmp", ".locks"}
        if foreign := [name for name in present if name not in own]:
            raise RegistryError(
                f"{self._store.url} is not a registry and holds other things ({', '.join(foreign[:5])}). Choose "
                "another prefix: s3://bucket/registry, for instance."
            )
        self._store.put(MARKER, MARKER_BYTES, absent=True)
        self.require()


def not_seen(url: RemoteUrl, what: str) -> RemoteError:
    """The error for what is not in the cache while the network may not be used."""
    return offline_error(
        f"{what} of {url} is not in the cache, and ${ENV_OFFLINE} forbids the network. Use it once with the network "
        f"(`sosr-det registry resolve URI --registry {url}`), or unset ${ENV_OFFLINE}."
    )
