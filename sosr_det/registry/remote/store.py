"""A checkpoint registry in an object store: the same methods as a local one's.

A publisher uploads blob, manifest and refs in this order, blob and manifest only where there is none. So a publish that
fails, or whose process dies, leaves at most objects that nothing points to; ``collect`` removes them when they are old.
A ref is changed so that no simultaneous change is lost, see :mod:`sosr_det.registry.remote.updates`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.blob import blob_chunks, check_blob
from sosr_det.registry.collect import GRACE_SECONDS, Collection
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import TensorSpec, sha256_hex, tensor_type
from sosr_det.registry.entry import Entry
from sosr_det.registry.files import Staging, logger
from sosr_det.registry.manifest import Manifest, utc_now
from sosr_det.registry.names import DEFAULT_TAG, check_name, check_tag
from sosr_det.registry.offline import is_offline
from sosr_det.registry.refs import Ref
from sosr_det.registry.remote.collect import collect_remote
from sosr_det.registry.remote.layout import blob_key, manifest_key, ref_key
from sosr_det.registry.remote.pins import RemotePin, hold_remote
from sosr_det.registry.remote.reader import RemoteReader
from sosr_det.registry.remote.updates import RefUpdates
from sosr_det.registry.store import manifest_to_store, tag_list

if TYPE_CHECKING:
    from torch import Tensor

_TRIES = 3  # of storing what a collection takes away again


class RemoteRegistry(RemoteReader):
    """A checkpoint registry at a URL that fsspec knows. Creating the object imports and connects nothing."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.updates = RefUpdates(self.objects)

    def publish(
        self,
        tensors: Mapping[str, Tensor],
        manifest_fields: Mapping[str, Any],
        name: str,
        tags: Sequence[str] = (DEFAULT_TAG,),
    ) -> Entry:
        """Store tensors with their manifest and point ``name``@tag to them for every tag.

        The registry is created if nothing lies at its URL. Objects that exist already are read and verified; a damaged
        one is replaced, with a warning in the log. When a tag cannot be set, those set before are
        taken back. ``manifest_fields``: see :meth:`Manifest.build`.

        Returns:
            The entry under the first tag.

        Raises:
            RegistryError: bad name, tag, tensor or manifest field; the store refuses or cannot be reached.
        """
        self._refuse_offline("publish to")
        check_name(name)
        tags = tag_list(tags)
        types = {key: tensor_type(key, tensor) for key, tensor in tensors.items()}
        blank = {key: TensorSpec(kind.dtype, kind.shape, "0" * 64) for key, kind in types.items()}
        Manifest.build(blank, manifest_fields).to_bytes()  # report a bad field before the long write
        self.marker.create()
        self.layout.ready()
        with Staging(self.layout.root, self.layout.tmp_dir) as staging:
            specs: dict[str, TensorSpec] = {}
            staged = staging.write(blob_chunks(tensors, specs), self.layout.blobs_dir)
            manifest = Manifest.build(specs, manifest_fields)
            blob_path = self.layout.blob_path(manifest.tensors_digest)
            staging.place(staged, blob_path)
        return self._store(manifest, manifest.to_bytes(), blob_path, name, tags)

    def add(
        self,
        manifest_bytes: bytes,
        blob_path: str | os.PathLike[str],
        name: str,
        tags: Sequence[str] = (DEFAULT_TAG,),
    ) -> Entry:
        """Store an existing manifest and blob file as they are, verified before they are uploaded.

        Otherwise as :meth:`publish`. The file is not read when the store holds that blob already.

        Raises:
            CorruptEntryError: the manifest is none, or the file is not the blob that it describes.
            RegistryError: as :meth:`publish`.
        """
        self._refuse_offline("publish to")
        check_name(name)
        tags = tag_list(tags)
        manifest = manifest_to_store(manifest_bytes, name)
        self.marker.create()
        return self._store(manifest, manifest_bytes, Path(blob_path), name, tags)

    def tag(self, uri: str, new_tags: Sequence[str], name: str | None = None) -> Entry:
        """Point ``name``@tag to what ``uri`` resolves to, for every new tag; no content is copied.

        ``name`` is the URI's own when None. A tag that exists is moved; its ref keeps where it pointed before.

        Returns:
            The entry under the first new tag.

        Raises:
            RegistryError: as :meth:`resolve`; a bad name or tag; ``uri`` is a digest and no name is given.
        """
        self._refuse_offline("tag in")
        self.objects.refuse_writing()
        tags = tag_list(new_tags)
        self.marker.require()
        entry = self.resolve(uri)
        target = name if name is not None else entry.name
        if target is None:
            raise RegistryError(
                f"{uri} is a digest, which has no name of its own; say under which name the tag goes (--name NAME)."
            )
        check_name(target)

        def require_content() -> None:
            if missing := self._missing(entry.digest, entry.manifest):
                expected = f"what {uri} pointed to"
                raise Damage(self.location(missing[0]), "file", expected, "no such object (any more)").error()

        self._refresh(entry.digest)  # a collection that runs just now spares what was written anew
        require_content()
        undo = self._set_refs(target, tags, entry.digest, entry.manifest)
        try:
            require_content()
        except BaseException:
            undo()
            raise
        return self._entry(entry.digest, entry.manifest, target, tags[0])

    def remove(self, name: str, tag: str | None = None) -> list[tuple[str, str]]:
        """Remove one tag of a name, or all of them (None); manifests and blobs stay until they are collected.

        Returns:
            The (name, tag) pairs that were removed.

        Raises:
            RegistryError: unknown name or tag, no permission, or the store cannot be reached.
        """
        self._refuse_offline("remove from")
        self.objects.refuse_writing()
        check_name(name)
        self.marker.require()
        removed = [check_tag(tag)] if tag is not None else self.tags(name)
        if not removed:
            raise self._unknown(name, DEFAULT_TAG)
        for each in removed:
            try:
                digest = self._read_ref(name, each).digest
            except FileNotFoundError:
                raise self._unknown(name, each) from None
            except CorruptEntryError:  # can be removed all the same
                digest = None
            # Before the tag goes, or a collection between the two would find it old and without a tag.
            self._refresh(digest)
            self.updates.delete(ref_key(name, each))
            self.layout.forget(self.layout.ref_path(name, each))
        return [(name, each) for each in removed]

    def collect(self, grace_seconds: float = GRACE_SECONDS, dry_run: bool = True) -> Collection:
        """Find, and unless ``dry_run`` remove, what no tag, descendant or running work needs any more.

        See :mod:`sosr_det.registry.remote.collect`.
        """
        return collect_remote(self, grace_seconds, dry_run)

    def hold(self, digest: str, note: str = "") -> RemotePin:
        """Keep the entry of a manifest digest from being collected while this process uses it; nothing while offline.

        An entry that the store has collected already, and whose copy is in this machine's cache, is used from there,
        with a warning. See :func:`sosr_det.registry.remote.pins.hold_remote`.
        """
        if is_offline() or self.objects.read_only:
            return RemotePin(self.objects, None, b"")

        def has_manifest() -> bool:
            try:
                self.objects.info(manifest_key(digest))
            except FileNotFoundError:
                if not self.layout.manifest_path(digest).is_file():
                    return False
                logger.warning(
                    "%s is no longer in %s (collected?); this machine's copy is used. Push it back to keep it.",
                    digest,
                    self.root,
                )
            return True

        return hold_remote(self.objects, digest, note, has_manifest)

    # ---- the steps of a writer -----------------------------------------------------------------------

    def _store(
        self, manifest: Manifest, content: bytes, blob_path: Path, name: str, tags: list[str]
    ) -> Entry:
        digest = sha256_hex(content)
        for _ in range(_TRIES):
            self._put_blob(manifest, blob_path)
            self._put_manifest(digest, content)
            undo = self._set_refs(name, tags, digest, manifest)
            # A collection that began before the refs were there may have taken what was old and unused until now.
            if not self._missing(digest, manifest):
                return self._entry(digest, manifest, name, tags[0])
            logger.warning("%s was collected while it was published; storing it again", digest)
        undo()
        raise RegistryError(
            f"what was published to {self.root} disappeared {_TRIES} times. Is `gc` running there without a grace "
            "period?"
        )

    def _put_blob(self, manifest: Manifest, path: Path) -> None:
        key = blob_key(manifest.tensors_digest)
        exists = True
        try:
            self.objects.info(key)
        except FileNotFoundError:
            exists = False
        if not exists:
            self._require_sound(path, manifest)
            if self.objects.upload(key, path, absent=True, moved=self._moved):
                return
        try:
            for _ in self._verified_blob(manifest):
                pass
        except CorruptEntryError as error:
            logger.warning(
                "replacing a damaged object by the published one: %s", getattr(error, "damage", error)
            )
            self._require_sound(path, manifest)
            self.objects.upload(key, path, absent=False, moved=self._moved)

    def _moved(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)

    @staticmethod
    def _require_sound(path: Path, manifest: Manifest) -> None:
        if damages := check_blob(path, manifest.tensors):
            raise damages[0].error(others=len(damages) - 1)

    def _put_manifest(self, digest: str, content: bytes) -> None:
        key = manifest_key(digest)
        if not self.objects.put(key, content, absent=True):
            with suppress(FileNotFoundError):
                try:
                    self._remote_manifest(digest)
                except CorruptEntryError as error:
                    logger.warning(
                        "replacing a damaged object by the published one: %s", getattr(error, "damage", error)
                    )
            self.objects.put(
                key, content
            )  # the same again: it counts as new for a collection that runs just now
        self.layout.store(self.layout.manifest_path(digest), content)

    def _set_refs(
        self, name: str, tags: Sequence[str], digest: str, manifest: Manifest
    ) -> Callable[[], None]:
        """Point every tag to ``digest``; returns what undoes that. When one fails, those before it are undone."""
        done: list[tuple[str, bytes | None, bytes | None]] = []

        def undo() -> None:
            for tag, old, new in reversed(done):
                self._take_back(name, tag, old, new)

        left: set[str] = set()
        try:
            for tag in tags:

                def change(old: bytes | None, tag: str = tag) -> bytes | None:
                    return self._changed_ref(old, name, tag, digest, manifest)

                old, new = self.updates.update(ref_key(name, tag), change)
                done.append((tag, old, new))
                if new is not None:
                    self.layout.store(self.layout.ref_path(name, tag), new)
                left |= self._left_behind(old, name, tag) - {digest}
        except BaseException:
            undo()
            raise
        for each in sorted(left):
            self._refresh(each)
        return undo

    def _changed_ref(
        self, old: bytes | None, name: str, tag: str, digest: str, manifest: Manifest
    ) -> bytes | None:
        """The ref after ``old``; None when it points there already."""
        summary, previous = manifest.summary(), None
        if old is not None:
            try:
                ref = Ref.from_bytes(old, self.location(ref_key(name, tag)), name, tag)  # type: ignore[arg-type]
                if (ref.digest, ref.summary) == (digest, summary):
                    return None
                previous = ref.digest if ref.digest != digest else ref.previous
            except CorruptEntryError as error:
                logger.warning(
                    "replacing a damaged object by the published one: %s", getattr(error, "damage", error)
                )
        return Ref(name, tag, digest, utc_now(), previous, summary).to_bytes()

    def _left_behind(self, old: bytes | None, name: str, tag: str) -> set[str]:
        try:
            return (
                {Ref.from_bytes(old, self.location(ref_key(name, tag)), name, tag).digest} if old else set()
            )  # type: ignore[arg-type]
        except CorruptEntryError:
            return set()

    def _take_back(self, name: str, tag: str, old: bytes | None, new: bytes | None) -> None:
        """Undo one change of a ref, unless somebody changed it since."""
        if old == new:
            return
        key = ref_key(name, tag)
        try:
            if old is not None:
                self.updates.update(key, lambda now: old if now == new else None)
            elif self.objects.read(key, len(new or b"")).data == new:
                self.updates.delete(key)
            self.layout.forget(self.layout.ref_path(name, tag))
        except (OSError, RegistryError) as error:
            logger.warning("could not take back %s@%s after a failed publish: %s", name, tag, error)

    def holds(self, digest: str, manifest: Manifest) -> bool:
        """Whether the store has an entry's manifest and its blob, in their right sizes; nothing is read."""
        self._refuse_offline("look into")
        sizes = {
            blob_key(manifest.tensors_digest): manifest.size_bytes,
            manifest_key(digest): len(manifest.to_bytes()),
        }
        for key, size in sizes.items():
            try:
                if self.objects.info(key).size != size:
                    return False
            except FileNotFoundError:
                return False
        return True

    def _missing(self, digest: str, manifest: Manifest) -> list[str]:
        """Keys of an entry's content that are not in the store."""
        missing = []
        for key in (blob_key(manifest.tensors_digest), manifest_key(digest)):
            try:
                self.objects.info(key)
            except FileNotFoundError:
                missing.append(key)
        return missing

    def _refresh(self, digest: str | None) -> None:
        """Write a manifest again: the grace period of a collection starts when the last ref leaves it."""
        if digest is None:
            return
        try:
            content, _ = self._remote_manifest(digest)
            self.objects.put(manifest_key(digest), content)
        except FileNotFoundError:
            pass
        except RegistryError as error:
            logger.warning("could not renew the time of %s, so it may be collected early: %s", digest, error)
