"""Garbage collection in a store: what :mod:`sosr_det.registry.collect` does in a folder, without its lock.

The same rules decide what is kept. In place of the lock: a publisher writes its manifest anew, also where there is
one, and looks for blob and manifest again after its refs are set; a collection takes objects one by one, manifests
first, and directly before each one looks again whether it was written anew, pinned, or (blobs) is needed by a manifest
that came since. The grace period has to be longer than the longest upload.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sosr_det.errors import RegistryError
from sosr_det.registry.collect import Collection, Garbage
from sosr_det.registry.digest import is_sha256
from sosr_det.registry.files import logger
from sosr_det.registry.marking import Marking
from sosr_det.registry.remote.layout import blob_key, manifest_key
from sosr_det.registry.remote.pins import find_remote_pins

if TYPE_CHECKING:
    from sosr_det.registry.remote.store import RemoteRegistry

_LEFTOVER_SECONDS = 24 * 3600.0  # after which a lock or a temporary file is a dead process's


def collect_remote(registry: RemoteRegistry, grace_seconds: float, dry_run: bool) -> Collection:
    """Find, and unless ``dry_run`` remove, what no tag, descendant or running work needs. A dry run writes nothing.

    Raises:
        RegistryError: no registry; a negative grace period; a damaged ref or manifest, or one that cannot be read; no
            permission.
    """
    if not (math.isfinite(grace_seconds) and grace_seconds >= 0):
        raise RegistryError(f"the grace period is {grace_seconds} seconds; expected 0 or more.")
    registry._refuse_offline("collect in")
    registry.objects.refuse_writing()  # also a dry run: what lies there cannot be listed as a whole
    registry.marker.require()
    now = time.time() if dry_run else _store_time(registry)
    plan = _Plan(registry, grace_seconds, now)
    found = plan.make()
    if not dry_run:
        found.dry_run = False
        found.garbage = plan.sweep(found.garbage)
    return found


def _store_time(registry: RemoteRegistry) -> float:
    """The store's own time, which wrote the times that are compared."""
    key = f".locks/clock-{secrets.token_hex(8)}"
    registry.objects.put(key, b"")
    try:
        return registry.objects.info(key).modified or time.time()
    finally:
        registry.objects.delete(key)


class _Plan:
    def __init__(self, registry: RemoteRegistry, grace: float, now: float) -> None:
        self.registry = registry
        self.objects = registry.objects
        self.grace = grace
        self.now = now
        # Ages before refs: what is tagged after its age was noted is found among the tags.
        self.infos = self.objects.list("")
        digests = {digest for key in self.infos if (digest := _manifest_digest(key))}
        self.marking = Marking(registry, digests)

    def make(self) -> Collection:
        found = Collection(dry_run=True, grace_seconds=self.grace)
        pins = find_remote_pins(self.objects, self.now)
        found.held = [pin for pin in pins if pin.holds]
        marking, digests = self.marking, self.marking.digests
        marked = marking.with_parents(marking.tagged() | ({pin.digest for pin in found.held} & digests))
        unmarked = {digest: self._look("manifest", manifest_key(digest)) for digest in digests - marked}
        young = {digest for digest, item in unmarked.items() if item.age < self.grace}
        kept = marked | marking.with_parents(young)
        for digest, item in sorted(unmarked.items()):
            item = replace(item, note=marking.note(digest))
            (found.waiting if digest in kept else found.garbage).append(item)
        found.num_kept = len(kept & digests)
        self.in_use = {marking.content(digest).tensors_digest for digest in kept}
        for key in sorted(self.infos):
            digest = key.rpartition("/")[2].removesuffix(".safetensors")
            if is_sha256(digest) and key == blob_key(digest) and digest not in self.in_use:
                item = self._look("blob", key)
                (found.waiting if item.age < self.grace else found.garbage).append(item)
        expired = {str(pin.path): pin for pin in pins if not pin.holds}
        for key in sorted(self.infos):
            pin = expired.get(self.objects.url.of(key))
            if pin is not None:
                found.garbage.append(self._look("pin", key, pin.record.note if pin.record else "damaged"))
            elif key.startswith((".locks/", "tmp/")):
                item = self._look("lock" if key.startswith(".") else "temporary", key)
                if item.age >= max(self.grace, _LEFTOVER_SECONDS):
                    found.garbage.append(item)
        return found

    def _look(self, kind: str, key: str, note: str = "") -> Garbage:
        info = self.infos[key]
        # A store that does not say when an object was written: never old enough.
        age = -1.0 if info.modified is None else max(0.0, self.now - info.modified)
        return Garbage(kind, self.objects.url.of(key), info.size, age, note)  # type: ignore[arg-type]

    # ---- removing ------------------------------------------------------------------------------------

    def sweep(self, garbage: list[Garbage]) -> list[Garbage]:
        """Remove manifests, children first, then blobs, then the rest; returns what is gone."""
        start = len(self.objects.url.of(""))
        keys = {id(item): str(item.path)[start:] for item in garbage}
        gone: list[Garbage] = []
        spared: set[str] = set()
        manifests = {
            _manifest_digest(keys[id(item)]) or "": item for item in garbage if item.kind == "manifest"
        }
        for digest in self.marking.children_first(manifests):
            item = manifests[digest]
            if digest in spared:
                continue
            renewed = self._was_renewed(keys[id(item)])
            if renewed is None:  # another collection was here first
                continue
            if renewed or self._is_pinned(digest):
                spared |= self.marking.with_parents({digest})
                continue
            self.objects.delete(keys[id(item)])
            gone.append(item)
        taken = {_manifest_digest(keys[id(item)]) for item in gone}
        for item in garbage:
            key = keys[id(item)]
            if item.kind == "manifest":
                continue
            if item.kind == "blob" and (self._was_renewed(key) is not False or self._needed(key, taken)):
                continue
            self.objects.delete(key)
            gone.append(item)
        return gone

    def _was_renewed(self, key: str) -> bool | None:
        """Whether an object was written since its age was noted; None when it is gone."""
        try:
            now = self.objects.info(key)
        except FileNotFoundError:
            return None
        return now.modified != self.infos[key].modified

    def _is_pinned(self, digest: str) -> bool:
        return any(pin.holds for pin in find_remote_pins(self.objects, self.now, digest))

    def _needed(self, key: str, taken: set[str | None]) -> bool:
        """Whether any manifest that is there now has this blob: those that were left, and those that came since."""
        wanted = key.rpartition("/")[2].removesuffix(".safetensors")
        for digest in self.registry.manifest_digests():
            if digest in taken:  # written again after it was taken
                self.marking.known.pop(digest, None)
            try:
                if self.marking.content(digest).tensors_digest == wanted:
                    return True
            except RegistryError as error:
                if digest not in self.marking.digests:
                    logger.warning("%s is left, because a new manifest cannot be read: %s", key, error)
                    return True
        return False


def _manifest_digest(key: str) -> str | None:
    digest = key.rpartition("/")[2].removesuffix(".json")
    return digest if is_sha256(digest) and key == manifest_key(digest) else None
