"""The reading half of a registry on a local or shared folder. Readers take no lock, and write nothing there.

A writer moves blob, manifest and ref into place in this order, each whole, so what a ref points to is there. Finding
an entry opens the files that its name or digest says and lists no folder: its cost does not grow with the registry.
"""

from __future__ import annotations

import difflib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import refs
from sosr_det.registry.blob import check_blob
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import is_sha256, sha256_hex, tensor_bytes
from sosr_det.registry.entry import Entry, Listing
from sosr_det.registry.files import logger, read_small
from sosr_det.registry.layout import RegistryLayout
from sosr_det.registry.manifest import SIZE_LIMIT, Manifest
from sosr_det.registry.names import DEFAULT_TAG, SosrUri, check_name, check_tag, parse_uri
from sosr_det.registry.refs import Ref
from sosr_det.registry.verified_cache import VerifiedCache

if TYPE_CHECKING:
    from torch import Tensor

_RETRIES = 10


class RegistryReader:
    """What can be asked of the registry at ``root`` (default: ``$SOSR_REGISTRY``, else ``./registry``)."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.layout = RegistryLayout(root)

    @property
    def root(self) -> Path:
        """The registry's folder, absolute, links resolved."""
        return self.layout.root

    def require(self) -> None:
        """Raise :class:`RegistryError` unless there is a registry at the root."""
        self.layout.require()

    # ---- one entry -----------------------------------------------------------------------------------

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
        return self._check_manifest(entry.digest) or self.check_blob(entry.manifest)

    def verify(self, source: str | Entry, use_cache: bool = True) -> Entry:
        """Check an entry without loading it (no torch needed) and return it.

        ``use_cache``: a blob that did not change since this user verified it is not read again, see
        :mod:`sosr_det.registry.verified_cache`; False reads every bit. :meth:`load` always does.

        Raises:
            CorruptEntryError: anything is damaged; file, part, expected and actual are named.
            RegistryError: as :meth:`resolve`.
        """
        if isinstance(source, str):
            entry = self.resolve(source)  # which has just verified the manifest
            damages: list[Damage] = []
        else:
            entry = source
            damages = self._check_manifest(entry.digest)
        if not damages and not (use_cache and self.checked_at(entry.manifest)):
            damages = self.check_blob(entry.manifest)
        if damages:
            raise damages[0].error(others=len(damages) - 1)
        return entry

    def checked_at(self, manifest: Manifest) -> str | None:
        """When this user verified the blob of a manifest, if it did not change since (UTC text), else None."""
        path = self.layout.blob_path(manifest.tensors_digest)
        self.layout.refuse_links(path)
        return VerifiedCache(self.root).checked_at(path, manifest.tensors_digest)

    def check_blob(self, manifest: Manifest) -> list[Damage]:
        """Read the blob of a manifest whole; the list is empty when every bit is right, which is remembered.

        Raises:
            RegistryError: it cannot be read, or is a link or another special file.
        """
        path, digest = self.layout.blob_path(manifest.tensors_digest), manifest.tensors_digest
        self.layout.refuse_links(path)
        cache, started = VerifiedCache(self.root), time.time()
        try:
            before = path.lstat()
        except FileNotFoundError:
            before = None
        damages = check_blob(path, manifest.tensors)
        if damages:
            cache.forget(path, digest)
        elif before is not None:
            cache.remember(path, digest, before, started)
        return damages

    def label(self, path: Path) -> str:
        """What a path of :attr:`layout` is called in reports: the path itself, in a store the object's URL."""
        return str(path)

    def read_stored_manifest(self, digest: str) -> Manifest:
        """As :meth:`read_manifest`, of a store always the original and never a copy in the cache."""
        return self.read_manifest(digest)

    def _check_manifest(self, digest: str) -> list[Damage]:
        """Compare a manifest's file with its digest: it was parsed when the entry was made."""
        path = self.layout.manifest_path(digest)
        try:
            actual = sha256_hex(self.layout.read(path, SIZE_LIMIT))
        except FileNotFoundError:
            return [Damage(str(path), "file", f"the manifest sha256 {digest}", "no such file")]
        except CorruptEntryError as error:
            if not isinstance(damage := getattr(error, "damage", None), Damage):
                raise
            return [damage]
        return (
            [] if actual == digest else [Damage(str(path), "content", f"sha256 {digest}", f"sha256 {actual}")]
        )

    def fetch(self, entry: Entry) -> Path:
        """A local path of the entry's blob, verified as :meth:`verify` does.

        Raises:
            CorruptEntryError: it is damaged.
        """
        return self.verify(entry).blob_path

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

    def read_ref(self, name: str, tag: str = DEFAULT_TAG) -> Ref:
        """The ref of a name and tag.

        Raises:
            RegistryError: unknown name or tag.
            CorruptEntryError: the ref file is damaged.
        """
        try:
            return self._read_ref(name, tag)
        except FileNotFoundError:
            raise self._unknown(name, tag) from None

    # ---- what is there -------------------------------------------------------------------------------

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
        self.layout.require()
        listings = []
        for name in self.layout.listdir(self.layout.refs_dir):
            folder = self.layout.refs_dir / name
            for tag in self.tags(
                name
            ):  # which refuses a folder behind a link; reading refuses a file that is one
                path = folder / f"{tag}.json"
                try:
                    ref = Ref.from_bytes(read_small(path, refs.SIZE_LIMIT), path, name, tag)
                    summary = ref.summary or self._by_ref(ref).manifest.summary()
                    listings.append(Listing(name, tag, ref.digest, summary, ref.updated))
                except FileNotFoundError:  # removed since the folder was listed
                    continue
                except RegistryError as error:
                    listings.append(Listing(name, tag, None, None, error=error))
        return listings

    def manifest_digests(self) -> list[str]:
        """The digests of all manifests, sorted, whether a name leads to them or not.

        Raises:
            RegistryError: no registry at the root.
        """
        self.layout.require()
        files = self.layout.listdir(self.layout.manifests_dir)
        stems = [file.removesuffix(".json") for file in files if file.endswith(".json")]
        return [digest for digest in stems if is_sha256(digest)]

    # ---- finding -------------------------------------------------------------------------------------

    def _read_ref(self, name: str, tag: str) -> Ref:
        path = self.layout.ref_path(name, tag)
        return Ref.from_bytes(self.layout.read(path, refs.SIZE_LIMIT), path, name, tag)

    def _by_ref(self, ref: Ref) -> Entry:
        for _ in range(_RETRIES):
            try:
                entry = self.entry_of_manifest(ref.digest)
                return Entry(
                    entry.digest, entry.manifest, entry.manifest_path, entry.blob_path, ref.name, ref.tag
                )
            except (FileNotFoundError, CorruptEntryError) as error:
                failure = error
            # The tag may have been moved, and what it pointed to collected, since it was read.
            now = self.read_ref(ref.name, ref.tag)
            if now.digest == ref.digest:
                break
            ref = now
        if isinstance(failure, CorruptEntryError):
            raise failure
        path = self.layout.manifest_path(ref.digest)
        expected = f"the manifest that {ref.name}@{ref.tag} points to"
        raise Damage(str(path), "file", expected, "no such file").error() from None

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
        if not self.layout.blob_path(tensors_digest).exists():
            return []
        holders = []
        for digest in self.manifest_digests():
            try:
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
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        if near:
            known = f"Near names: {', '.join(near)}"
        elif names:
            known = f"None of its {len(names)} names is near" if len(names) > 1 else "Its one name is another"
        else:
            known = "The registry is empty"
        return RegistryError(
            f"there is no {name!r} in the registry {self.root}. {known}. "
            "Check the spelling and --registry; `sosr-det registry ls` lists all."
        )


def _tag_of(file: str) -> str | None:
    """The tag that a file in a name's folder stands for, or None."""
    try:
        return check_tag(file.removesuffix(".json")) if file.endswith(".json") else None
    except RegistryError:
        return None
