"""Checking many entries at once, or a whole registry with everything that lies in it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.blob import digest_blob
from sosr_det.registry.damage import Damage, damage_of
from sosr_det.registry.digest import is_sha256
from sosr_det.registry.manifest import Summary
from sosr_det.registry.names import check_name, check_tag
from sosr_det.registry.pins import find_pins
from sosr_det.registry.reading import RegistryReader
from sosr_det.registry.remote.faults import kind_of
from sosr_det.registry.store import Registry

# Manifest digest -> (ref file, what it repeats of the manifest) of each ref that points to it.
_Pointed = dict[str, list[tuple[str, Summary | None]]]


@dataclass
class Audit:
    """What was checked (``files``), what is damaged, and sound files that nothing points to (``unused``).

    ``unchanged`` holds the files that were not read, because they did not change since this user verified them, and
    when that was (UTC text).
    """

    files: set[str] = field(default_factory=set)
    damages: list[Damage] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unchanged: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged; unused files are no damage."""
        return not self.damages

    def note(self, path: Path | str, error: RegistryError) -> None:
        """Record what an error says about ``path``, once.

        Raises:
            RegistryError: a store could not be asked, which says nothing about what lies in it.
        """
        if kind_of(error) is not None:
            raise error
        if isinstance(error, CorruptEntryError):
            damage = damage_of(error, path)
        else:
            damage = Damage(str(path), "file", "a readable plain file", str(error))
        if damage not in self.damages:
            self.damages.append(damage)


def audit_refs(registry: RegistryReader, refs: list[tuple[str, str]], use_cache: bool = False) -> Audit:
    """Check these (name, tag) pairs: ref, manifest and every bit of the blob of each.

    With ``use_cache`` a blob that did not change since this user verified it is not read again.

    Raises:
        RegistryError: no registry, or an unknown name or tag.
    """
    registry.require()
    audit = Audit()
    pointed: _Pointed = {}
    for name, tag in refs:
        path = registry.label(registry.layout.ref_path(name, tag))
        audit.files.add(path)
        try:
            ref = registry.read_ref(name, tag)
            pointed.setdefault(ref.digest, []).append((path, ref.summary))
        except CorruptEntryError as error:
            audit.note(path, error)
    _check_manifests(registry, list(pointed), audit, use_cache, pointed)
    return audit


def audit_digest(registry: RegistryReader, digest: str, use_cache: bool = False) -> Audit:
    """Check one manifest digest and the blob behind it. ``use_cache`` and errors as for :func:`audit_refs`."""
    registry.require()
    audit = Audit()
    _check_manifests(registry, [digest], audit, use_cache)
    return audit


def audit_all(registry: RegistryReader) -> Audit:
    """Check every file of the registry, also manifests and blobs that no ref points to; in one behind a URL all refs
    and manifests and their blobs.

    Pins are checked too. Temporary files and locks are left out: they hold nothing that can be loaded.

    Raises:
        RegistryError: no registry at the root.
    """
    registry.require()
    if not isinstance(registry, Registry):
        return _audit_entries(registry)
    layout = registry.layout
    audit = Audit()
    pointed: _Pointed = {}
    for name, tag, path in _ref_files(registry, audit):
        try:
            ref = registry.read_ref(name, tag)
            pointed.setdefault(ref.digest, []).append((str(path), ref.summary))
        except RegistryError as error:
            audit.note(path, error)
    digests: dict[str, None] = dict.fromkeys(pointed)
    referenced = len(digests)
    for file in _listed(registry, layout.manifests_dir, audit):
        digest = file.removesuffix(".json")
        if not file.endswith(".json") or not is_sha256(digest):
            audit.note(
                layout.manifests_dir / file, RegistryError("not the name of a manifest (64 hex digits.json)")
            )
        else:
            digests.setdefault(digest)
    unused = [str(layout.manifest_path(digest)) for digest in list(digests)[referenced:]]
    used = _check_manifests(registry, list(digests), audit, pointed=pointed)
    damaged = {damage.file for damage in audit.damages}
    audit.unused += [path for path in unused if path not in damaged]
    _check_other_blobs(registry, used, audit)
    for pin in find_pins(layout):
        audit.files.add(str(pin.path))
        if pin.damage is not None:
            audit.damages.append(pin.damage)
    return audit


def _audit_entries(registry: RegistryReader) -> Audit:
    audit = Audit()
    pointed: _Pointed = {}
    for listing in registry.list_refs():
        path = registry.label(registry.layout.ref_path(listing.name, listing.tag))
        audit.files.add(path)
        if listing.digest is not None:
            pointed.setdefault(listing.digest, []).append((path, listing.summary))
        elif listing.error is not None:
            audit.note(path, listing.error)
    tagged = set(pointed)
    digests = dict.fromkeys(pointed) | dict.fromkeys(registry.manifest_digests())
    _check_manifests(registry, list(digests), audit, pointed=pointed)
    damaged = {damage.file for damage in audit.damages}
    unused = [registry.layout.manifest_path(digest) for digest in digests if digest not in tagged]
    paths = [registry.label(path) for path in unused]
    audit.unused += [path for path in paths if path not in damaged]
    return audit


def _listed(registry: Registry, folder: Path, audit: Audit) -> list[str]:
    try:
        return registry.layout.listdir(folder)
    except RegistryError as error:
        audit.note(folder, error)
        return []


def _ref_files(registry: Registry, audit: Audit) -> list[tuple[str, str, Path]]:
    found = []
    refs_dir = registry.layout.refs_dir
    for name in _listed(registry, refs_dir, audit):
        files = _listed(registry, refs_dir / name, audit)
        if not files and not (refs_dir / name).is_dir():
            files = [""]
        for file in files:
            path = refs_dir / name / file
            audit.files.add(str(path))
            try:
                tag = check_tag(file.removesuffix(".json")) if file.endswith(".json") else ""
                if not tag:
                    raise RegistryError("not a ref: expected refs/NAME/TAG.json")
                found.append((check_name(name), tag, path))
            except RegistryError as error:
                audit.note(path, error)
    return found


def _check_manifests(
    registry: RegistryReader,
    digests: list[str],
    audit: Audit,
    use_cache: bool = False,
    pointed: _Pointed | None = None,
) -> set[str]:
    """Check manifests, what refs repeat of them, and their blobs; the tensors digests of the sound manifests."""
    used: set[str] = set()
    for digest in digests:
        path = registry.label(registry.layout.manifest_path(digest))
        audit.files.add(path)
        try:
            manifest = registry.read_stored_manifest(digest)
        except FileNotFoundError:
            damage = Damage(path, "file", "the manifest that a ref points to", "no such file")
            audit.note(path, damage.error())
            continue
        except RegistryError as error:
            audit.note(path, error)
            continue
        for ref_path, summary in (pointed or {}).get(digest, ()):
            if summary not in (None, manifest.summary()):
                expected, found = str(manifest.summary().to_dict()), str(summary.to_dict())
                audit.note(ref_path, Damage(ref_path, "summary", expected, found).error())
        if manifest.tensors_digest in used:
            continue
        used.add(manifest.tensors_digest)
        blob_path = registry.label(registry.layout.blob_path(manifest.tensors_digest))
        audit.files.add(blob_path)
        try:
            if use_cache and (checked := registry.checked_at(manifest)):
                audit.unchanged[blob_path] = checked
            else:
                audit.damages += registry.check_blob(manifest)
        except RegistryError as error:
            audit.note(blob_path, error)
    return used


def _check_other_blobs(registry: Registry, used: set[str], audit: Audit) -> None:
    """Check blobs that no sound manifest describes: by their name, from their own header."""
    blobs_dir = registry.layout.blobs_dir
    for prefix in _listed(registry, blobs_dir, audit):
        for file in _listed(registry, blobs_dir / prefix, audit):
            path = blobs_dir / prefix / file
            digest = file.removesuffix(".safetensors")
            if digest in used and path == registry.layout.blob_path(digest):
                continue
            audit.files.add(str(path))
            try:
                if not is_sha256(digest) or path != registry.layout.blob_path(digest):
                    raise RegistryError("not the name of a blob (ab/ab....safetensors)")
                registry.layout.refuse_links(path)
                actual = digest_blob(path)
                if actual != digest:
                    raise Damage(str(path), "tensors digest", digest, actual).error()
                audit.unused.append(str(path))
            except RegistryError as error:
                audit.note(path, error)
