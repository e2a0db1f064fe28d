"""Garbage collection: removes what nothing leads to any more, and only after a grace period.

Kept are, with their blobs: manifests that a tag points to; manifests that running work holds (``pins.py``); the
parents of kept manifests, and theirs, so that a lineage never breaks while a descendant is there (also the parents'
weights: a frozen stage is compared with them, and an entry is either whole or gone); and everything younger than the
grace period, which starts when a file was written or when the last tag left the manifest. What a tag pointed to before
(``previous`` in its ref) is not kept: within the grace period it can be tagged again.

Also removed: temporary files of dead writers, expired pins, and what interrupted takeovers left beside the lock.

Order and races: everything happens under the writers' lock. Manifests go before blobs, each moved aside first and
brought back if the lock turns out to be lost, or if a pin has come up meanwhile. When a ref cannot be read, or a
manifest that is needed to find a blob, nothing is removed at all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sosr_det.errors import RegistryError
from sosr_det.registry.digest import is_sha256
from sosr_det.registry.files import TEMPORARY, Staging, logger
from sosr_det.registry.marking import Content, Marking
from sosr_det.registry.owner import Owner
from sosr_det.registry.pins import FoundPin, find_pins

if TYPE_CHECKING:
    from sosr_det.registry.store import Registry

GRACE_SECONDS = 24 * 3600.0
_STRANGER_SECONDS = 24 * 3600.0  # temporary files of other machines: their writers cannot be looked up here
_REUSED_SECONDS = 7 * 24 * 3600.0  # a process number may be another process's by now


@dataclass(frozen=True)
class Garbage:
    """One file: ``kind`` "manifest", "blob", "temporary", "pin" or "lock"; ``age`` in seconds; ``note`` for people."""

    kind: str
    path: Path
    size_bytes: int
    age: float
    note: str = ""


@dataclass
class Collection:
    """What a collection found: ``garbage``, which it removed unless ``dry_run``, and what it left alone.

    ``waiting``: unused, but younger than ``grace_seconds``; ``held``: pins of running work; ``num_kept``: manifests.
    """

    dry_run: bool
    grace_seconds: float
    garbage: list[Garbage] = field(default_factory=list)
    waiting: list[Garbage] = field(default_factory=list)
    held: list[FoundPin] = field(default_factory=list)
    num_kept: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all garbage."""
        return sum(item.size_bytes for item in self.garbage)


def collect(registry: Registry, grace_seconds: float, dry_run: bool) -> Collection:
    """Find, and unless ``dry_run`` remove, what is not needed. A dry run takes no lock and writes nothing.

    Raises:
        RegistryError: no registry; a negative grace period; a damaged ref or manifest, or one that cannot be read;
            no permission; the lock is held by another process.
    """
    if not (math.isfinite(grace_seconds) and grace_seconds >= 0):
        raise RegistryError(f"the grace period is {grace_seconds} seconds; expected 0 or more.")
    registry.layout.require()
    known: dict[str, Content] = {}
    plan = _Plan(registry, grace_seconds, time.time(), known)
    found = plan.make()
    if dry_run:
        return found
    with registry.write_lock() as lock:
        # The file system's clock, not this machine's, wrote the times that are compared.
        now = registry.layout.lock_path.lstat().st_mtime
        plan = _Plan(registry, grace_seconds, now, known)  # again: writers were not locked out so far
        found = plan.make()
        found.dry_run = False
        found.garbage = _Sweep(registry, plan, lock.check).run(found.garbage)
    return found


class _Plan:
    def __init__(self, registry: Registry, grace: float, now: float, known: dict[str, Content]) -> None:
        self.registry = registry
        self.layout = registry.layout
        self.grace = grace
        self.now = now
        self.marking = Marking(registry, set(registry.manifest_digests()), known)

    def make(self) -> Collection:
        found = Collection(dry_run=True, grace_seconds=self.grace)
        found.held = [pin for pin in find_pins(self.layout) if pin.holds]
        marking, digests = self.marking, self.marking.digests
        marked = marking.with_parents(marking.tagged() | ({pin.digest for pin in found.held} & digests))
        unmarked = {digest: self._look("manifest", digest) for digest in digests - marked}
        young = {digest for digest, item in unmarked.items() if item and item.age < self.grace}
        kept = marked | marking.with_parents(young)
        for digest, item in sorted(unmarked.items()):
            if item is not None:
                item = replace(item, note=marking.note(digest))
                (found.waiting if digest in kept else found.garbage).append(item)
        found.num_kept = len(kept & digests)
        in_use = {marking.content(digest).tensors_digest for digest in kept}
        for item in self._blobs():
            if item.path.stem not in in_use:
                (found.waiting if item.age < self.grace else found.garbage).append(item)
        found.garbage += self._temporary() + self._expired_pins() + self._lock_leftovers()
        return found

    def _blobs(self) -> list[Garbage]:
        found = []
        for prefix in self.layout.listdir(self.layout.blobs_dir):
            for file in self.layout.listdir(self.layout.blobs_dir / prefix):
                digest = file.removesuffix(".safetensors")
                path = self.layout.blobs_dir / prefix / file
                if is_sha256(digest) and path == self.layout.blob_path(digest):
                    found.append(self._look("blob", path))
        return [item for item in found if item]

    def _temporary(self) -> list[Garbage]:
        found = []
        for file in self.layout.listdir(self.layout.tmp_dir):
            owner = Owner.from_label(file.removesuffix(TEMPORARY).rpartition("-")[0])
            if owner is None or not owner.is_here():
                least = max(self.grace, _STRANGER_SECONDS)
            else:
                least = self.grace if owner.is_dead() else max(self.grace, _REUSED_SECONDS)
            item = self._look("temporary", self.layout.tmp_dir / file)
            if item is not None and item.age >= least:
                found.append(item)
        return found

    def _lock_leftovers(self) -> list[Garbage]:
        lock = self.layout.lock_path
        files = [file for file in self.layout.listdir(lock.parent) if file.startswith(f"{lock.name}.")]
        items = [self._look("lock", lock.parent / file) for file in files]
        return [item for item in items if item and item.age >= max(self.grace, _STRANGER_SECONDS)]

    def _expired_pins(self) -> list[Garbage]:
        expired = [pin for pin in find_pins(self.layout) if not pin.holds]
        items = [self._look("pin", pin.path, pin.record.note if pin.record else "damaged") for pin in expired]
        return [item for item in items if item]

    def _look(self, kind: str, what: Path | str, note: str = "") -> Garbage | None:
        path = self.layout.manifest_path(what) if isinstance(what, str) else what
        try:
            state = path.lstat()
        except FileNotFoundError:
            return None
        # A rename keeps the modification time; for what lies in tmp/ the time of the rename counts.
        last = max(state.st_mtime, state.st_ctime) if kind == "temporary" else state.st_mtime
        return Garbage(kind, path, state.st_size, max(0.0, self.now - last), note)


class _Sweep:
    def __init__(self, registry: Registry, plan: _Plan, check_lock: Callable[[], None]) -> None:
        self.layout = registry.layout
        self.plan = plan
        self.check_lock = check_lock

    def run(self, garbage: list[Garbage]) -> list[Garbage]:
        """Remove manifests, then blobs, then the rest; returns what is gone."""
        gone: list[Garbage] = []
        spared: set[str] = set()
        manifests = {item.path.stem: item for item in garbage if item.kind == "manifest"}
        for digest in self.plan.marking.children_first(manifests):
            item = manifests[digest]
            if digest in spared:
                continue
            if self._take(item, self._is_pinned):
                gone.append(item)
            elif item.path.exists():  # pinned meanwhile
                spared |= self.plan.marking.with_parents({digest})
        needed = {self.plan.marking.content(digest).tensors_digest for digest in spared}
        for item in garbage:
            if item.kind == "blob":
                removed = item.path.stem not in needed and self._take(item)
            else:
                removed = item.kind != "manifest" and self._unlink(item)
            if removed:
                gone.append(item)
        for folder in (self.layout.pins_dir, self.layout.refs_dir):
            for name in self.layout.listdir(folder):
                with suppress(OSError):  # not empty, as a rule
                    os.rmdir(folder / name)
        return gone

    def _is_pinned(self, item: Garbage) -> bool:
        return any(pin.holds for pin in find_pins(self.layout, item.path.stem))

    def _take(self, item: Garbage, is_needed: Callable[[Garbage], bool] = lambda item: False) -> bool:
        with Staging(self.layout.root, self.layout.tmp_dir) as staging:
            staging.guard = self.check_lock
            try:
                staging.remove(item.path)
                self.check_lock()
                if is_needed(item):
                    staging.rollback(unguarded=True)
                    return False
            except FileNotFoundError:
                return False
            except BaseException:
                staging.rollback(unguarded=True)
                raise
        return True

    def _unlink(self, item: Garbage) -> bool:
        self.check_lock()
        try:
            self.layout.refuse_links(item.path.parent)
            os.unlink(item.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            logger.warning("could not remove %s: %s", item.path, error)
            return False
        return True
