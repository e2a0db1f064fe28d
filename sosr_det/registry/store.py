"""The checkpoint registry on a local or shared folder: publish, resolve, load, check.

Blobs and manifests are named by the digest of their content and never change; a ref is the only file that
does. A publisher writes every file whole into ``tmp/``, syncs it, and only then moves blob, manifest and
refs into place, in this order and under one lock, so a reader, who takes no lock, meets complete files at
any moment, also after a crash. On file systems where locks do nothing (some NFS mounts) the worst case is
that the last of two simultaneous writers of one tag wins and ``previous`` skips the other.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import refs
from sosr_det.registry.blob import blob_chunks, blob_layout, check_blob
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import TensorSpec, tensor_bytes, tensor_type
from sosr_det.registry.files import Staging, ensure_dir, free_bytes, logger, os_errors
from sosr_det.registry.layout import RegistryLayout, default_root
from sosr_det.registry.manifest import SIZE_LIMIT, Manifest, Summary, utc_now
from sosr_det.registry.names import DEFAULT_TAG, SosrUri, check_name, check_tag, parse_uri
from sosr_det.registry.refs import Ref

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Entry", "Listing", "Registry", "default_root"]

LOCK_TIMEOUT = 60.0  # seconds
_RESERVE = 1 << 20  # bytes kept free beside the blob, for manifest and refs


@dataclass(frozen=True)
class Entry:
    """A resolved registry entry.

    ``digest`` is the manifest's (64 hex digits); ``name`` and ``tag`` are None when it was asked for by
    digest. Its manifest is verified; its blob is when loaded or checked.
    """

    digest: str
    manifest: Manifest
    manifest_path: Path
    blob_path: Path
    name: str | None = None
    tag: str | None = None

    @property
    def tensors_digest(self) -> str:
        """The digest of the weights alone, 64 hex digits."""
        return self.manifest.tensors_digest

    @property
    def pinned_uri(self) -> str:
        """The URI that means exactly this entry forever: ``sosr://sha256:HEX``."""
        return str(SosrUri(digest=self.digest))

    @property
    def uri(self) -> str:
        """The URI it was resolved from in full: ``sosr://NAME@TAG``, or the pinned one."""
        return self.pinned_uri if self.name is None else str(SosrUri(name=self.name, tag=self.tag))


@dataclass(frozen=True)
class Listing:
    """One ref of the registry: where it points and what is there, or the error that reading it gave."""

    name: str
    tag: str
    digest: str | None
    summary: Summary | None
    updated: str | None = None
    error: RegistryError | None = None


class Registry:
    """A checkpoint registry at ``root`` (default: :func:`default_root`). Creating the object touches no disk."""

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> None:
        self.layout = RegistryLayout(root)
        self.lock_timeout = lock_timeout

    @property
    def root(self) -> Path:
        """The registry's folder, absolute, links resolved."""
        return self.layout.root

    # ---- reading -------------------------------------------------------------------------------------

    def resolve(self, uri: str) -> Entry:
        """Find the entry of a URI and verify its manifest; of the blob only presence and size are checked.

        ``sosr://sha256:HEX`` takes a manifest's digest, or a tensors digest that one manifest alone holds.

        Raises:
            RegistryError: not a URI; unknown name (near names are listed), tag (the tags are listed) or
                digest; several manifests hold that tensors digest; no registry at the root.
            CorruptEntryError: ref or manifest are damaged, or the blob is missing or has a wrong size.
        """
        wanted = parse_uri(uri)
        self.layout.require()
        if wanted.digest is not None:
            return self._by_digest(wanted.digest)
        name, tag = wanted.name or "", wanted.tag or ""
        return self._by_ref(self.read_ref(name, tag))

    def load(self, source: str | Entry) -> dict[str, Tensor]:
        """Read the tensors of an entry, by name, on the CPU, every bit verified against the manifest.

        Each tensor owns its memory. What is hashed is the memory that is returned, so a file that changes
        meanwhile cannot slip in.

        Raises:
            CorruptEntryError: names, shapes, dtypes or values are not the manifest's; file, tensor,
                expected and actual are named.
            RegistryError: as :meth:`resolve`.
        """
        entry = self.resolve(source) if isinstance(source, str) else source
        import torch

        specs = entry.manifest.tensors
        tensors: dict[str, Tensor] = {}

        def buffer_for(name: str) -> memoryview:
            dtype = getattr(torch, specs[name].dtype)
            tensors[name] = torch.empty(specs[name].shape, dtype=dtype, device="cpu")
            return tensor_bytes(name, tensors[name])

        self.layout.refuse_links(entry.blob_path)
        damages = check_blob(entry.blob_path, specs, buffer_for)
        if damages:
            raise damages[0].error(others=len(damages) - 1)
        return {name: tensors[name] for name in sorted(tensors)}

    def check(self, entry: Entry) -> list[Damage]:
        """Read manifest and blob of an entry again, whole; the list is empty when every bit is right.

        Raises:
            RegistryError: a file cannot be read, or is a link or another special file.
        """
        try:
            self.read_manifest(entry.digest)
        except CorruptEntryError as error:
            if not isinstance(damage := getattr(error, "damage", None), Damage):
                raise
            return [damage]
        return self._check_blob(entry)

    def _check_blob(self, entry: Entry) -> list[Damage]:
        self.layout.refuse_links(entry.blob_path)
        return check_blob(entry.blob_path, entry.manifest.tensors)

    def verify(self, source: str | Entry) -> Entry:
        """Check an entry without loading it (no torch needed) and return it.

        Raises:
            CorruptEntryError: anything is damaged; file, part, expected and actual are named.
            RegistryError: as :meth:`resolve`.
        """
        if isinstance(source, str):
            entry = self.resolve(source)  # which has just verified the manifest
            damages = self._check_blob(entry)
        else:
            entry = source
            damages = self.check(entry)
        if damages:
            raise damages[0].error(others=len(damages) - 1)
        return entry

    def names(self) -> list[str]:
        """All names, sorted. Raises :class:`RegistryError` when there is no registry."""
        self.layout.require()
        return [name for name in self.layout.listdir(self.layout.refs_dir) if self.tags(name)]

    def tags(self, name: str) -> list[str]:
        """The tags of a name, sorted; empty when the name is unknown or not allowed."""
        try:
            files = self.layout.listdir(self.layout.refs_dir / check_name(name))
        except RegistryError:
            return []
        return [tag for file in files if (tag := _tag_of(file)) is not None]

    def list_refs(self) -> list[Listing]:
        """All refs, sorted by name and tag, from the ref files alone; one that cannot be read has its error.

        Only for a ref without a summary, which an older sosr-det wrote, the manifest is read.

        Raises:
            RegistryError: no registry at the root.
        """
        listings = []
        for name in self.names():
            for tag in self.tags(name):
                try:
                    ref = self.read_ref(name, tag)
                    summary = ref.summary or self._by_ref(ref).manifest.summary()
                    listings.append(Listing(name, tag, ref.digest, summary, ref.updated))
                except RegistryError as error:
                    listings.append(Listing(name, tag, None, None, error=error))
        return listings

    def read_ref(self, name: str, tag: str = DEFAULT_TAG) -> Ref:
        """The ref of a name and tag.

        Raises:
            RegistryError: unknown name or tag.
            CorruptEntryError: the ref file is damaged.
        """
        path = self.layout.ref_path(name, tag)
        try:
            content = self.layout.read(path, refs.SIZE_LIMIT)
        except FileNotFoundError:
            raise self._unknown(name, tag) from None
        return Ref.from_bytes(content, path, name, tag)

    def entry_of_manifest(self, digest: str) -> Entry:
        """The entry of a manifest's digest; of the blob only presence and size are checked.

        Raises:
            FileNotFoundError: there is no such manifest.
            CorruptEntryError: manifest damaged, or blob missing or of a wrong size.
        """
        manifest = self.read_manifest(digest)
        blob_path = self.layout.blob_path(manifest.tensors_digest)
        self.layout.refuse_links(blob_path)
        try:
            size = f"{blob_path.lstat().st_size} bytes"
        except FileNotFoundError:
            size = "no such file"
        if size != f"{manifest.size_bytes} bytes":
            raise Damage(str(blob_path), "size", f"{manifest.size_bytes} bytes", size).error()
        return Entry(digest, manifest, self.layout.manifest_path(digest), blob_path)

    def read_manifest(self, digest: str) -> Manifest:
        """The manifest of a digest, verified.

        Raises:
            FileNotFoundError: there is no such manifest.
            CorruptEntryError: it is damaged.
        """
        path = self.layout.manifest_path(digest)
        return Manifest.from_bytes(self.layout.read(path, SIZE_LIMIT), path, digest)

    def _by_ref(self, ref: Ref) -> Entry:
        try:
            entry = self.entry_of_manifest(ref.digest)
        except FileNotFoundError:
            path = self.layout.manifest_path(ref.digest)
            expected = f"the manifest that {ref.name}@{ref.tag} points to"
            raise Damage(str(path), "file", expected, "no such file").error() from None
        return Entry(entry.digest, entry.manifest, entry.manifest_path, entry.blob_path, ref.name, ref.tag)

    def _by_digest(self, digest: str) -> Entry:
        try:
            return self.entry_of_manifest(digest)
        except FileNotFoundError:
            holders = self._holders(digest)
        if len(holders) == 1:
            return self.entry_of_manifest(holders[0])
        if not holders:
            raise RegistryError(
                f"no manifest and no weights with digest {digest} in the registry {self.root}. "
                "`sosr-det registry ls` lists what is there; check --registry, or publish first."
            )
        uris = ", ".join(str(SosrUri(digest=holder)) for holder in holders)
        raise RegistryError(f"{digest} are weights that {len(holders)} manifests hold; use one of {uris}.")

    def _holders(self, tensors_digest: str) -> list[str]:
        """Digests of the manifests that hold these weights."""
        holders = []
        for file in self.layout.listdir(self.layout.manifests_dir):
            try:
                digest = file.removesuffix(".json")
                if self.read_manifest(digest).tensors_digest == tensors_digest:
                    holders.append(digest)
            except (RegistryError, FileNotFoundError) as error:
                logger.warning("skipped while looking for %s: %s", tensors_digest, error)
        return holders

    def _unknown(self, name: str, tag: str) -> RegistryError:
        if tags := self.tags(name):
            return RegistryError(
                f"{name!r} has no tag {tag!r} in the registry {self.root}; its tags are {', '.join(tags)}. "
                f"Use one of them, e.g. {SosrUri(name=name, tag=tags[0])}."
            )
        names = self.names()
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or names[:5]
        known = f"Near names: {', '.join(near)}" if near else "The registry is empty"
        return RegistryError(
            f"there is no {name!r} in the registry {self.root}. {known}. "
            "Check the spelling and --registry; `sosr-det registry ls` lists all."
        )

    # ---- writing -------------------------------------------------------------------------------------

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
        if isinstance(tags, str) or not tags:
            raise RegistryError(f"tags are {tags!r}, expected a list with at least one tag, e.g. ['latest'].")
        tags = list(dict.fromkeys(check_tag(tag) for tag in tags))
        types = {key: tensor_type(key, tensor) for key, tensor in tensors.items()}
        needed = blob_layout(types).size
        blank = {key: TensorSpec(kind.dtype, kind.shape, "0" * 64) for key, kind in types.items()}
        Manifest.build(blank, manifest_fields).to_bytes()  # report a bad field before the long write
        self.layout.create()
        self._check_space(needed)
        with Staging(self.root, self.layout.tmp_dir) as staging:
            specs: dict[str, TensorSpec] = {}
            staged_blob = staging.write(blob_chunks(tensors, specs), self.layout.blobs_dir)
            manifest = Manifest.build(specs, manifest_fields)
            content = manifest.to_bytes()
            digest = manifest.digest
            blob_path = self.layout.blob_path(manifest.tensors_digest)
            manifest_path = self.layout.manifest_path(digest)
            staged_manifest = staging.write([content], manifest_path)
            with self._lock():
                try:
                    self._place_blob(staging, staged_blob, blob_path, specs)
                    self._place_manifest(staging, staged_manifest, manifest_path, digest)
                    for tag in tags:
                        self._place_ref(staging, name, tag, digest, manifest.summary())
                except BaseException:
                    staging.rollback()
                    raise
        return Entry(digest, manifest, manifest_path, blob_path, name, tags[0])

    def _check_space(self, needed: int) -> None:
        with os_errors(self.root, "read the free space of"):
            free = free_bytes(self.root)
        if free < needed + _RESERVE:
            raise RegistryError(
                f"not enough free space in {self.root}: {needed + _RESERVE} bytes are needed, {free} are free. "
                "Free some space, or use another --registry."
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        path = self.layout.lock_path
        ensure_dir(self.root, path.parent)
        self.layout.refuse_links(path)
        lock = FileLock(path)
        with os_errors(path, "lock"):
            try:
                lock.acquire(timeout=self.lock_timeout)
            except Timeout:  # an OSError too, so it is caught before os_errors sees it
                raise RegistryError(
                    f"another process has held the lock {path} for {self.lock_timeout:g} seconds. "
                    "Wait for it to finish and publish again."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _place_blob(self, staging: Staging, staged: Path, path: Path, specs: dict[str, TensorSpec]) -> None:
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
            logger.warning(
                "replacing a damaged file by the published one: %s", getattr(error, "damage", error)
            )
        staging.place(staged, path)

    def _place_ref(self, staging: Staging, name: str, tag: str, digest: str, summary: Summary) -> None:
        path = self.layout.ref_path(name, tag)
        previous: str | None = None
        try:
            old = Ref.from_bytes(self.layout.read(path, refs.SIZE_LIMIT), path, name, tag)
            previous = old.digest if old.digest != digest else old.previous
        except FileNotFoundError:
            pass
        except CorruptEntryError as error:
            logger.warning(
                "replacing a damaged file by the published one: %s", getattr(error, "damage", error)
            )
        ref = Ref(name, tag, digest, utc_now(), previous, summary)
        staging.place(staging.write([ref.to_bytes()], path), path, keep_old=True)


def _tag_of(file: str) -> str | None:
    """The tag that a file in a name's folder stands for, or None."""
    try:
        return check_tag(file.removesuffix(".json")) if file.endswith(".json") else None
    except RegistryError:
        return None
