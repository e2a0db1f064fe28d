"""The reading half of a registry on a store far away, behind its verified local copy.

A tag is asked for at the store each time: what was seen earlier may be out of date. Manifests and blobs are named by
their content, so a copy that passes its check is as good as the original and the network is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import refs
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import is_sha256
from sosr_det.registry.entry import Entry, Listing
from sosr_det.registry.files import Staging, logger
from sosr_det.registry.lock import write_lock
from sosr_det.registry.manifest import SIZE_LIMIT, Manifest
from sosr_det.registry.names import DEFAULT_TAG, check_name, check_tag, parse_uri
from sosr_det.registry.offline import ENV_OFFLINE, is_offline
from sosr_det.registry.reading import RegistryReader
from sosr_det.registry.refs import Ref
from sosr_det.registry.remote.faults import kind_of, offline_error
from sosr_det.registry.remote.layout import (
    CacheLayout,
    RemoteMarker,
    blob_key,
    manifest_key,
    not_seen,
    ref_key,
)
from sosr_det.registry.remote.objects import WEB, Content, ObjectStore
from sosr_det.registry.remote.streaming import ADVICE, verified_stream
from sosr_det.registry.remote.urls import RemoteUrl, parse_remote

if TYPE_CHECKING:
    from torch import Tensor

_WAIT_SECONDS = 600.0  # for another process that downloads the same blob; then it is downloaded twice


class RemoteReader(RegistryReader):
    """What can be asked of the registry at a URL; ``layout`` is the local copy's.

    ``progress``, if set, is called with the number of bytes of a blob that came or went, as they do.
    """

    def __init__(self, root: str) -> None:
        self.url: RemoteUrl = parse_remote(root)
        self.layout: CacheLayout = CacheLayout(self.url)
        self.objects = ObjectStore(self.url)
        self.marker = RemoteMarker(self.objects)
        self.progress: Callable[[int], None] | None = None
        self._copy = RegistryReader(self.layout.root)

    @property
    def root(self) -> str:  # type: ignore[override]
        """The registry's URL, without a user name and password."""
        return str(self.url)

    def location(self, key: str) -> str:
        """The URL of an object, for messages."""
        return self.url.of(key)

    def require(self) -> None:
        """Check that there is a registry. Raises :class:`RegistryError` when there is none or it cannot be asked."""
        if not is_offline():
            self.marker.require()
        elif not self.layout.root.is_dir():
            raise not_seen(self.url, "anything")

    # ---- one entry -----------------------------------------------------------------------------------

    def resolve(self, uri: str) -> Entry:
        """Find the entry of a URI and verify its manifest; of the blob only presence and size are checked.

        A name is looked up in the store, always; with ``SOSR_OFFLINE=1`` in what was last seen of it, and the log says
        when that was. A digest that was used before needs no network.

        Raises:
            RegistryError: as :meth:`RegistryReader.resolve`; the store cannot be reached; not in the cache
                while offline.
            CorruptEntryError: ref or manifest are damaged, or the blob is missing or has a wrong size.
        """
        wanted = parse_uri(uri)
        if wanted.digest is not None:
            with suppress(FileNotFoundError, RegistryError):
                return self._copy.entry_of_manifest(wanted.digest)
            self.require()
            return self._by_digest(wanted.digest)
        ref = self.read_ref(wanted.name or "", wanted.tag or "")
        if is_offline():
            logger.warning(
                "%s is set: %s@%s is taken as it was seen at %s",
                ENV_OFFLINE,
                ref.name,
                ref.tag,
                self.layout.seen(ref.name, ref.tag),
            )
        return self._by_ref(ref)

    def load(self, source: str | Entry) -> dict[str, Tensor]:
        """Read the tensors of an entry, by name, on the CPU, every bit verified; downloaded first unless it was before.

        Raises:
            CorruptEntryError: the object in the store is damaged.
            RegistryError: as :meth:`resolve`.
        """
        entry = self.resolve(source) if isinstance(source, str) else source
        self._download(entry)
        try:
            return self._copy.load(entry)
        except CorruptEntryError as error:
            self._drop_copy(entry, error)
        self._download(entry)
        return self._copy.load(entry)

    def fetch(self, entry: Entry) -> Path:
        """The local copy of the entry's blob, downloaded unless it is there, verified.

        Raises:
            CorruptEntryError: the object in the store is damaged; nothing of it is kept.
            RegistryError: the store cannot be reached, or not in the cache while offline.
        """
        if self._download(entry):
            return entry.blob_path  # every byte was hashed on its way
        try:
            return self._copy.fetch(entry)
        except CorruptEntryError as error:
            self._drop_copy(entry, error)
        self._download(entry)
        return self._copy.fetch(entry)

    def verify(self, source: str | Entry, use_cache: bool = True) -> Entry:
        """Check an entry without loading it and return it: the local copy, or with ``use_cache=False`` the store's.

        Raises:
            CorruptEntryError: anything is damaged; file, part, expected and actual are named.
            RegistryError: as :meth:`resolve`.
        """
        entry = self.resolve(source) if isinstance(source, str) else source
        if use_cache:
            self.fetch(entry)
        else:
            self._refuse_offline("check")
            if damages := self.check(entry):
                raise damages[0].error(advice=ADVICE)
        return entry

    def checked_at(self, manifest: Manifest) -> str | None:
        """None: whether an object in a store changed since it was read cannot be told without reading it."""
        return None

    def check_blob(self, manifest: Manifest) -> list[Damage]:
        """Read the blob of a manifest whole; the list is empty when every bit is right.

        It is read from the store, while offline from the cache.

        Raises:
            RegistryError: the store cannot be reached; not in the cache while offline.
        """
        if is_offline():
            if not self.layout.blob_path(manifest.tensors_digest).exists():
                raise not_seen(self.url, f"the blob {manifest.tensors_digest}")
            return self._copy.check_blob(manifest)
        try:
            for _ in self._verified_blob(manifest):
                pass
        except CorruptEntryError as error:
            return [_damage(error)]
        return []

    def _check_manifest(self, digest: str) -> list[Damage]:
        if is_offline():
            return self._copy._check_manifest(digest)
        try:
            self._remote_manifest(digest)
        except FileNotFoundError:
            url = self.location(manifest_key(digest))
            return [Damage(url, "file", f"the manifest sha256 {digest}", "no such object")]
        except CorruptEntryError as error:
            return [_damage(error)]
        return []

    def entry_of_manifest(self, digest: str) -> Entry:
        """The entry of a manifest's digest; of the blob only presence and size are checked.

        Raises:
            FileNotFoundError: there is no such manifest.
            CorruptEntryError: manifest damaged, or blob missing or of a wrong size.
        """
        manifest = self.read_manifest(digest)
        entry = self._entry(digest, manifest)
        if self._copy_has_size(entry):
            return entry
        if is_offline():
            raise not_seen(self.url, f"the weights of sha256:{digest}")
        self._check_remote_size(entry.manifest)
        return entry

    def read_manifest(self, digest: str) -> Manifest:
        """The manifest of a digest, verified; from the local copy where that is sound.

        Raises:
            FileNotFoundError: there is no such manifest.
            CorruptEntryError: it is damaged.
        """
        try:
            return self._copy.read_manifest(digest)
        except FileNotFoundError:
            pass
        except CorruptEntryError as error:
            logger.warning("getting a damaged file of the cache again: %s", getattr(error, "damage", error))
        if is_offline():
            raise FileNotFoundError(str(self.layout.manifest_path(digest)))
        content, manifest = self._remote_manifest(digest)
        self.layout.store(self.layout.manifest_path(digest), content)
        return manifest

    def label(self, path: Path) -> str:
        """The URL of the object whose copy lies at ``path``; while offline the copy itself, since that is looked at."""
        return str(path) if is_offline() else self.location(path.relative_to(self.layout.root).as_posix())

    def read_stored_manifest(self, digest: str) -> Manifest:
        """The manifest of a digest as it is in the store, verified. Raises as :meth:`read_manifest`."""
        return self._copy.read_manifest(digest) if is_offline() else self._remote_manifest(digest)[1]

    # ---- what is there -------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All names, sorted. Raises :class:`RegistryError` when there is no registry."""
        return sorted({name for name, _ in self._ref_names()})

    def tags(self, name: str) -> list[str]:
        """The tags of a name, sorted; empty when the name is unknown or not allowed."""
        try:
            check_name(name)
        except RegistryError:
            return []
        if is_offline():
            return self._copy.tags(name)
        keys = self.objects.list(f"refs/{name}")
        return sorted(tag for found, tag in map(_parse_ref_key, keys) if found == name and tag is not None)

    def list_refs(self) -> list[Listing]:
        """All refs, sorted by name and tag; one that cannot be read has its error.

        Raises:
            RegistryError: there is no registry, or the store cannot be reached.
        """
        pairs = self._ref_names()
        if is_offline():
            contents: dict[str, Content | Exception] = {}
        else:
            self._forget_refs_but(pairs)
            contents = self.objects.read_many([ref_key(*pair) for pair in pairs], refs.SIZE_LIMIT)
        listings = []
        for name, tag in pairs:
            try:
                ref = self._parse_ref(name, tag, contents.get(ref_key(name, tag)))
                summary = ref.summary or self._by_ref(ref).manifest.summary()
                listings.append(Listing(name, tag, ref.digest, summary, ref.updated))
            except FileNotFoundError:  # removed since the folder was listed
                continue
            except RegistryError as error:
                if kind_of(error) not in (None, "offline"):
                    raise  # the store could not be asked; the ref may be fine
                listings.append(Listing(name, tag, None, None, error=error))
        return listings

    def manifest_digests(self) -> list[str]:
        """The digests of all manifests, sorted, whether a name leads to them or not.

        Raises:
            RegistryError: there is no registry, or the store cannot be reached.
        """
        self.require()
        if is_offline():
            return self._copy.manifest_digests()
        stems = [
            key.rpartition("/")[2].removesuffix(".json") for key in self.objects.list("manifests/sha256")
        ]
        return sorted(digest for digest in stems if is_sha256(digest))

    # ---- steps ---------------------------------------------------------------------------------------

    def _refuse_offline(self, what: str) -> None:
        if is_offline():
            raise offline_error(f"cannot {what} {self.url}: ${ENV_OFFLINE} forbids the network. Unset it.")

    def _ref_names(self) -> list[tuple[str, str]]:
        self.require()
        if is_offline():
            return [(name, tag) for name in self._copy.names() for tag in self._copy.tags(name)]
        pairs = map(_parse_ref_key, self.objects.list("refs"))
        return sorted((name, tag) for name, tag in pairs if name is not None and tag is not None)

    def _forget_refs_but(self, pairs: list[tuple[str, str]]) -> None:
        """What was seen earlier and is gone from the store must not come back while offline."""
        with suppress(RegistryError):  # there is no cache yet, or it is being made just now
            seen = {(name, tag) for name in self._copy.names() for tag in self._copy.tags(name)}
            for pair in seen.difference(pairs):
                self.layout.forget(self.layout.ref_path(*pair))

    def read_ref(self, name: str, tag: str = DEFAULT_TAG) -> Ref:
        """The ref of a name and tag, from the store.

        Raises:
            RegistryError: unknown name or tag, or the store cannot be reached.
            CorruptEntryError: the ref is damaged.
        """
        try:
            self.require()
            return self._read_ref(name, tag)
        except FileNotFoundError:
            if is_offline():
                raise not_seen(self.url, f"{name}@{tag}") from None
            raise self._unknown(name, tag) from None
        except RegistryError as error:
            seen = self.layout.seen(name, tag)
            if kind_of(error) not in ("network", "busy") or seen is None:
                raise
            hint = f"{ENV_OFFLINE}=1 would use {name}@{tag} as it was seen at {seen}."
            told = type(error)(f"{error} {hint}")
            told.kind = error.kind  # type: ignore[attr-defined]
            raise told from error

    def _read_ref(self, name: str, tag: str) -> Ref:
        if is_offline():
            return self._copy._read_ref(name, tag)
        key = ref_key(name, tag)
        try:
            content: Content | Exception = self.objects.read(key, refs.SIZE_LIMIT)
        except FileNotFoundError as error:
            content = error
        return self._parse_ref(name, tag, content)

    def _parse_ref(self, name: str, tag: str, content: Content | Exception | None) -> Ref:
        """Check what the store gave for a ref, and remember it as last seen."""
        if content is None:
            return self._copy._read_ref(name, tag)
        if isinstance(content, FileNotFoundError):
            self.layout.forget(self.layout.ref_path(name, tag))
            raise content
        if isinstance(content, Exception):
            raise content
        url = self.location(ref_key(name, tag))
        if len(content.data) > refs.SIZE_LIMIT:
            raise Damage(url, "size", f"at most {refs.SIZE_LIMIT} bytes", "more").error()
        ref = Ref.from_bytes(content.data, url, name, tag)  # type: ignore[arg-type]
        self.layout.store(self.layout.ref_path(name, tag), content.data)
        return ref

    def _remote_manifest(self, digest: str) -> tuple[bytes, Manifest]:
        key = manifest_key(digest)
        content = self.objects.read(key, SIZE_LIMIT).data
        if len(content) > SIZE_LIMIT:
            raise Damage(self.location(key), "size", f"at most {SIZE_LIMIT} bytes", "more").error()
        return content, Manifest.from_bytes(content, self.location(key), digest)  # type: ignore[arg-type]

    def _by_digest(self, digest: str) -> Entry:
        if is_offline() and not self._holders(digest):
            raise not_seen(self.url, f"sha256:{digest}")
        return super()._by_digest(digest)

    def _by_ref(self, ref: Ref) -> Entry:
        if is_offline() and not self.layout.manifest_path(ref.digest).is_file():
            raise not_seen(self.url, f"the manifest that {ref.name}@{ref.tag} points to")
        try:
            return super()._by_ref(ref)
        except CorruptEntryError as error:
            damage, start = _damage(error), f"{self.layout.root}{os.sep}"
            if is_offline() or not damage.file.startswith(start):
                raise
            # What is missing in the store has no copy: name the object, not the copy's place.
            raise replace(damage, file=self.label(Path(damage.file))).error() from None

    def _holders(self, tensors_digest: str) -> list[str]:
        if not is_offline():
            try:
                self.objects.info(blob_key(tensors_digest))
            except FileNotFoundError:
                return []
        holders = []
        for digest in self.manifest_digests():
            try:
                if self.read_manifest(digest).tensors_digest == tensors_digest:
                    holders.append(digest)
            except (CorruptEntryError, FileNotFoundError) as error:
                logger.warning("skipped while looking for %s: %s", tensors_digest, error)
        return holders

    # ---- the local copy ------------------------------------------------------------------------------

    def _entry(
        self, digest: str, manifest: Manifest, name: str | None = None, tag: str | None = None
    ) -> Entry:
        layout = self.layout
        blob_path = layout.blob_path(manifest.tensors_digest)
        return Entry(digest, manifest, layout.manifest_path(digest), blob_path, name, tag)

    def _copy_has_size(self, entry: Entry) -> bool:
        self.layout.refuse_links(entry.blob_path)
        try:
            return entry.blob_path.lstat().st_size == entry.manifest.size_bytes
        except FileNotFoundError:
            return False

    def _drop_copy(self, entry: Entry, error: CorruptEntryError) -> None:
        if is_offline():
            raise error
        logger.warning("getting a damaged file of the cache again: %s", getattr(error, "damage", error))
        self.layout.forget(entry.blob_path)

    def _download(self, entry: Entry) -> bool:
        """Bring the blob into the local copy unless one of its size is there; returns whether it came just now."""
        if self._copy_has_size(entry):
            return False
        if is_offline():
            raise not_seen(self.url, f"the weights of {entry.uri}")
        self.layout.ready()
        with self._one_at_a_time(entry.tensors_digest):
            if self._copy_has_size(entry):
                return False
            with Staging(self.layout.root, self.layout.tmp_dir) as staging:
                stream = self._counted(self._verified_blob(entry.manifest))
                staging.place(staging.write(stream, entry.blob_path), entry.blob_path)
        return True

    def _counted(self, chunks: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            yield chunk
            if self.progress is not None:
                self.progress(len(chunk))

    @contextmanager
    def _one_at_a_time(self, tensors_digest: str) -> Iterator[None]:
        """Hold the lock of one blob, so that a machine downloads it once; go on without it rather than never."""
        path = self.layout.root / ".locks" / f"{tensors_digest}.lease"
        lock = write_lock(self.layout.root, path, _WAIT_SECONDS)
        try:
            lock.__enter__()
        except RegistryError as error:
            logger.warning("downloading without the lock: %s", error)
            yield
            return
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _verified_blob(self, manifest: Manifest) -> Iterator[bytes | memoryview]:
        """The bytes of a blob from the store, in pieces. Raises :class:`CorruptEntryError` at the first wrong one."""
        self._check_remote_size(manifest)
        key = blob_key(manifest.tensors_digest)
        chunks = self.objects.chunks(key, manifest.size_bytes)
        try:
            yield from verified_stream(chunks, manifest.tensors, self.location(key))
        except FileNotFoundError:
            found = "no such object (any more)"
            raise Damage(self.location(key), "file", "the weights", found).error(advice=ADVICE) from None

    def _check_remote_size(self, manifest: Manifest) -> None:
        key, expected = blob_key(manifest.tensors_digest), f"{manifest.size_bytes} bytes"
        try:
            size = self.objects.info(key).size
        except FileNotFoundError:
            raise Damage(self.location(key), "size", expected, "no such file").error(advice=ADVICE) from None
        if size != manifest.size_bytes and not (size == 0 and self.url.protocol in WEB):
            raise Damage(self.location(key), "size", expected, f"{size} bytes").error(advice=ADVICE)


def _damage(error: CorruptEntryError) -> Damage:
    if not isinstance(damage := getattr(error, "damage", None), Damage):
        raise error
    return damage


def _parse_ref_key(key: str) -> tuple[str | None, str | None]:
    """Name and tag that the key of a ref stands for; (None, None) for any other key."""
    parts = key.split("/")
    if len(parts) != 3 or not parts[2].endswith(".json"):
        return None, None
    try:
        return check_name(parts[1]), check_tag(parts[2].removesuffix(".json"))
    except RegistryError:
        return None, None
