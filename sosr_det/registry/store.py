"""The checkpoint registry on a local or shared folder: publish, tag, remove; reading is in ``reading.py``.

Blobs and manifests are named by the digest of their content and never change; a ref is the only file that
does. A writer writes every file whole into ``tmp/``, syncs it, and only then moves blob, manifest and
refs into place, in this order and under one lock (see ``lock.py``), so a reader, who takes no lock, meets
complete files at any moment, also after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import refs
from sosr_det.registry.blob import blob_chunks, blob_layout, check_blob, verified_chunks
from sosr_det.registry.collect import GRACE_SECONDS, Collection, collect
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import TensorSpec, sha256_hex, tensor_type
from sosr_det.registry.entry import Entry, Listing
from sosr_det.registry.files import Staging, free_bytes, logger, os_errors
from sosr_det.registry.layout import default_root
from sosr_det.registry.lock import LOCK_TIMEOUT, WriteLock, write_lock
from sosr_det.registry.manifest import SIZE_LIMIT, Manifest, Summary, utc_now
from sosr_det.registry.names import DEFAULT_TAG, check_name, check_tag
from sosr_det.registry.pins import Pin, hold
from sosr_det.registry.reading import RegistryReader
from sosr_det.registry.refs import Ref

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Entry", "Listing", "Registry", "default_root"]

_RESERVE = 1 << 20  # bytes kept free beside the blob, for manifest and refs


class Registry(RegistryReader):
    """A checkpoint registry at ``root`` (default: :func:`default_root`). Creating the object touches no disk.

    ``lock_timeout`` is how many seconds a writer waits for the others.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> None:
        super().__init__(root)
        self.lock_timeout = lock_timeout

    def publish(
        self,
        tensors: Mapping[str, Tensor],
        manifest_fields: Mapping[str, Any],
        name: str,
        tags: Sequence[str] = (DEFAULT_TAG,),
    ) -> Entry:
        """Store tensors with their manifest and point ``name``@tag to them for every tag.

        The registry is created if its folder is new or empty. Files that exist already are verified; a
        damaged one is replaced, with a warning in the log. When anything fails, nothing changes: refs,
        manifests and blobs are as before and the temporary files are gone. Shared storage is stored once
        per name; strides and devices are not kept. ``manifest_fields``: see :meth:`Manifest.build`.

        Returns:
            The entry under the first tag.

        Raises:
            RegistryError: bad name, tag, tensor or manifest field; not enough free space; no permission;
                the lock is held by another process for longer than ``lock_timeout`` seconds.
        """
        check_name(name)
        tags = tag_list(tags)
        types = {key: tensor_type(key, tensor) for key, tensor in tensors.items()}
        needed = blob_layout(types).size
        blank = {key: TensorSpec(kind.dtype, kind.shape, "0" * 64) for key, kind in types.items()}
        Manifest.build(blank, manifest_fields).to_bytes()  # report a bad field before the long write
        self.layout.create()
        self._check_space(needed)
        with Staging(self.root, self.layout.tmp_dir) as staging:
            specs: dict[str, TensorSpec] = {}
            blob = staging.write(blob_chunks(tensors, specs), self.layout.blobs_dir)
            manifest = Manifest.build(specs, manifest_fields)
            return self._store(staging, manifest, manifest.to_bytes(), blob, lambda: blob, name, tags)

    def add(
        self,
        manifest_bytes: bytes,
        blob_path: str | os.PathLike[str],
        name: str,
        tags: Sequence[str] = (DEFAULT_TAG,),
    ) -> Entry:
        """Store an existing manifest and blob file as they are, every bit verified while it is copied.

        Otherwise as :meth:`publish`: the digest stays the same, and when anything fails, nothing changes. The file
        ``blob_path`` is not read when the registry holds that blob already.

        Raises:
            CorruptEntryError: the manifest is none, or the file is not the blob that it describes.
            RegistryError: as :meth:`publish`.
        """
        check_name(name)
        tags = tag_list(tags)
        manifest = manifest_to_store(manifest_bytes, name)
        self.layout.create()
        with Staging(self.root, self.layout.tmp_dir) as staging:

            def stage() -> Path:
                self._check_space(manifest.size_bytes)
                chunks = verified_chunks(Path(blob_path), manifest.tensors)
                return staging.write(chunks, self.layout.blobs_dir)

            present = self.layout.blob_path(manifest.tensors_digest)
            self.layout.refuse_links(present)
            blob = None if not check_blob(present, manifest.tensors) else stage()
            return self._store(staging, manifest, manifest_bytes, blob, stage, name, tags)

    def tag(self, uri: str, new_tags: Sequence[str], name: str | None = None) -> Entry:
        """Point ``name``@tag to what ``uri`` resolves to, for every new tag; no content is copied.

        ``name`` is the URI's own when None. A tag that exists is moved; its ref keeps where it pointed before.

        Returns:
            The entry under the first new tag.

        Raises:
            RegistryError: as :meth:`resolve`; a bad name or tag; ``uri`` is a digest and no name is given.
        """
        tags = tag_list(new_tags)
        target = name if name is not None else self.resolve(uri).name
        if target is None:
            raise RegistryError(
                f"{uri} is a digest, which has no name of its own; say under which name the tag goes (--name NAME)."
            )
        check_name(target)
        self.layout.require()
        with Staging(self.root, self.layout.tmp_dir) as staging, self._transaction(staging):
            entry = self.resolve(uri)  # under the lock, so that it cannot be collected meanwhile
            for tag in tags:
                self._place_ref(staging, target, tag, entry.digest, entry.manifest.summary())
        return Entry(entry.digest, entry.manifest, entry.manifest_path, entry.blob_path, target, tags[0])

    def remove(self, name: str, tag: str | None = None) -> list[tuple[str, str]]:
        """Remove one tag of a name, or all of them (None); manifests and blobs stay until they are collected.

        No other tag moves: without ``latest`` the name has no default, and ``sosr://NAME`` fails and lists the tags
        that are left. A damaged ref can be removed too.

        Returns:
            The (name, tag) pairs that were removed.

        Raises:
            RegistryError: unknown name or tag, no permission, or the lock is held by another process.
        """
        check_name(name)
        self.layout.require()
        with Staging(self.root, self.layout.tmp_dir) as staging, self._transaction(staging):
            removed = [check_tag(tag)] if tag is not None else self.tags(name)
            if not removed:
                raise self._unknown(name, DEFAULT_TAG)
            for each in removed:
                digest = self._digest_of(name, each)
                try:
                    staging.remove(self.layout.ref_path(name, each))
                except FileNotFoundError:
                    raise self._unknown(name, each) from None
                self._refresh(staging, digest)
            with suppress(OSError):  # not empty, as a rule
                (self.layout.refs_dir / name).rmdir()
        return [(name, each) for each in removed]

    def collect(self, grace_seconds: float = GRACE_SECONDS, dry_run: bool = True) -> Collection:
        """Find, and unless ``dry_run`` remove, what no tag, descendant or running work needs any more.

        See :mod:`sosr_det.registry.collect`.
        """
        return collect(self, grace_seconds, dry_run)

    def hold(self, digest: str, note: str = "") -> Pin:
        """Keep the entry of a manifest digest from being collected while this process uses it.

        See :func:`sosr_det.registry.pins.hold`; call :meth:`Pin.refresh` now and then, :meth:`Pin.release` at the end.
        """
        return hold(self.layout, digest, note)

    def write_lock(self) -> AbstractContextManager[WriteLock]:
        """The lock of this registry's writers, for the time of a ``with`` block."""
        return write_lock(self.root, self.layout.lock_path, self.lock_timeout)

    # ---- the steps of a writer -----------------------------------------------------------------------

    def _check_space(self, needed: int) -> None:
        with os_errors(self.root, "read the free space of"):
            free = free_bytes(self.root)
        if free < needed + _RESERVE:
            raise RegistryError(
                f"not enough free space in {self.root}: {needed + _RESERVE} bytes are needed, {free} are free. "
                "Free some space, or use another --registry."
            )

    @contextmanager
    def _transaction(self, staging: Staging) -> Iterator[None]:
        """Hold the lock; an error in the block takes back everything that was placed in it."""
        with self.write_lock() as lock:
            staging.guard = lock.check
            try:
                yield
                lock.check()  # else another writer may have seen the state before, and overwritten ours
            except BaseException:
                staging.rollback()
                raise

    def _store(
        self,
        staging: Staging,
        manifest: Manifest,
        content: bytes,
        blob: Path | None,
        stage: Callable[[], Path],
        name: str,
        tags: list[str],
    ) -> Entry:
        """Move a staged blob, its manifest and refs into place; ``blob`` None: it was there and sound just now."""
        digest = sha256_hex(content)
        blob_path = self.layout.blob_path(manifest.tensors_digest)
        manifest_path = self.layout.manifest_path(digest)
        staged_manifest = staging.write([content], manifest_path)
        with self._transaction(staging):
            if blob is None and not blob_path.exists():  # collected meanwhile
                blob = stage()
            if blob is not None:
                self._place_blob(staging, blob, blob_path, manifest.tensors)
            self._place_manifest(staging, staged_manifest, manifest_path, digest)
            for tag in tags:
                self._place_ref(staging, name, tag, digest, manifest.summary())
        return Entry(digest, manifest, manifest_path, blob_path, name, tags[0])

    def _place_blob(
        self, staging: Staging, staged: Path, path: Path, specs: Mapping[str, TensorSpec]
    ) -> None:
        self.layout.refuse_links(path)
        if path.exists():
            damages = check_blob(path, specs)
            if not damages:
                return
            logger.warning("replacing a damaged file by the published one: %s", damages[0])
        staging.place(staged, path)

    def _place_manifest(self, staging: Staging, staged: Path, path: Path, digest: str) -> None:
        try:
            self.read_manifest(digest)
            return
        except FileNotFoundError:
            pass
        except CorruptEntryError as error:
            _warn_replaced(error)
        staging.place(staged, path)

    def _place_ref(self, staging: Staging, name: str, tag: str, digest: str, summary: Summary) -> None:
        path = self.layout.ref_path(name, tag)
        previous: str | None = None
        try:
            old = Ref.from_bytes(self.layout.read(path, refs.SIZE_LIMIT), path, name, tag)
            previous = old.digest if old.digest != digest else old.previous
        except FileNotFoundError:
            old = None
        except CorruptEntryError as error:
            old = None
            _warn_replaced(error)
        ref = Ref(name, tag, digest, utc_now(), previous, summary)
        staging.place(staging.write([ref.to_bytes()], path), path, keep_old=True)
        if old is not None and old.digest != digest:
            self._refresh(staging, old.digest)

    def _digest_of(self, name: str, tag: str) -> str | None:
        """Where a ref points, or None when it is missing or damaged."""
        try:
            return self._read_ref(name, tag).digest
        except (FileNotFoundError, RegistryError):
            return None

    def _refresh(self, staging: Staging, digest: str | None) -> None:
        """Set a manifest's time to now: the grace period of a collection starts when the last ref leaves it."""
        if digest is None:
            return
        path = self.layout.manifest_path(digest)
        try:
            self.layout.refuse_links(path)
            try:
                os.utime(path)
            except PermissionError:  # another user's file in a shared folder: a copy has its own time
                content = self.layout.read(path, SIZE_LIMIT)
                if sha256_hex(content) == digest:
                    staging.place(staging.write([content], path), path)
        except FileNotFoundError:
            pass
        except (OSError, RegistryError) as error:
            logger.warning("could not set the time of %s, so it may be collected early: %s", path, error)


def manifest_to_store(content: bytes, name: str) -> Manifest:
    """The manifest that ``add`` was given for ``name``. Raises :class:`RegistryError` when it is too large or none."""
    if len(content) > SIZE_LIMIT:
        raise RegistryError(
            f"the manifest of {name!r} has {len(content)} bytes, at most {SIZE_LIMIT} are allowed."
        )
    return Manifest.from_bytes(content, f"the manifest to be stored as {name}", sha256_hex(content))


def tag_list(tags: Sequence[str]) -> list[str]:
    """Tags checked, each once. Raises :class:`RegistryError` for a text, an empty list or a tag that is not allowed."""
    if isinstance(tags, str) or not tags:
        raise RegistryError(f"tags are {tags!r}, expected a list with at least one tag, e.g. ['latest'].")
    return list(dict.fromkeys(check_tag(tag) for tag in tags))


def _warn_replaced(error: CorruptEntryError) -> None:
    damage = getattr(error, "damage", error)
    logger.warning(
        "replacing a damaged file by the published one: %s", damage if isinstance(damage, Damage) else error
    )
