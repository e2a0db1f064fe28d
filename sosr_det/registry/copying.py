"""Copying entries from one registry to another: the same bytes, so the same digests, at both ends.

What the target holds already is not sent again, so a copy that broke off goes on where it was. Parents go first, then
the entry, then its tags: nobody meets an entry whose lineage is still on its way. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.entry import Entry, Listing
from sosr_det.registry.names import DEFAULT_TAG, SosrUri, check_name, parse_uri, publishable_name
from sosr_det.registry.refs import Ref
from sosr_det.registry.store import Registry

IMPORTED = "imported-from"  # such a parent is a file, not an entry
AnyRegistry = Registry | Any  # or a RemoteRegistry, which has the same methods


@dataclass(frozen=True)
class CopyOptions:
    """``parents``: the entries it came from go along. ``force``: a tag may be taken from another entry.

    ``repair``: read what the target holds, and replace what is damaged there.
    """

    parents: bool = True
    force: bool = False
    repair: bool = False


@dataclass
class Copied:
    """One entry at the target. ``sent_bytes`` of its blob, 0 when the target had it; ``tags`` that were set or right.

    ``relation`` is None for what was asked for, else how the entry below it came from this one. An entry that the
    source does not hold has ``absent`` True; it can only be a parent.
    """

    digest: str
    name: str | None
    tags: list[str]
    size_bytes: int = 0
    sent_bytes: int = 0
    relation: str | None = None
    absent: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "pinned_uri": str(SosrUri(digest=self.digest)),
            "digest": self.digest,
            "uris": [str(SosrUri(name=self.name, tag=tag)) for tag in self.tags],
            "size_bytes": self.size_bytes,
            "sent_bytes": self.sent_bytes,
            "relation": self.relation,
            "absent": self.absent,
        }


@dataclass
class Copier:
    """Copies entries from ``source`` to ``target``.

    ``on_entry`` hears of each entry before its bytes move: a label and how many bytes will be counted; ``on_bytes`` of
    bytes as they come from or go to a remote registry.
    """

    source: AnyRegistry
    target: AnyRegistry
    options: CopyOptions = field(default_factory=CopyOptions)
    on_entry: Callable[[str, int], None] = lambda label, total: None
    on_bytes: Callable[[int], None] = lambda count: None
    _listings: list[Listing] | None = None

    def __post_init__(self) -> None:
        if str(self.source.root) == str(self.target.root):
            raise RegistryError(
                f"{self.source.root} is both source and target. Name another registry, or set tags with "
                "`sosr-det registry tag`."
            )

    def copy(self, uri: str, new_name: str | None = None, all_tags: bool = False) -> list[Copied]:
        """Copy what ``uri`` means, under its own name and tag, or under ``new_name`` ("NAME" or "NAME@TAG").

        With ``all_tags`` all tags of the URI's name are copied, each with its entry.

        Returns:
            What is at the target now, parents first.

        Raises:
            RegistryError: unknown URI; a digest without ``new_name``; a tag of the target means another entry, and
                ``force`` is not set; a registry cannot be read or written.
            CorruptEntryError: the source is damaged; nothing of the entry is at the target then.
        """
        wanted = parse_uri(uri)
        if all_tags:
            if wanted.name is None or new_name is not None:
                raise RegistryError(
                    f"all tags can be copied of a name, under the same name; {uri!r} is given."
                )
            tags = self.source.tags(wanted.name)
            uris = [str(SosrUri(name=wanted.name, tag=tag)) for tag in tags] or [uri]
            return [copied for each in uris for copied in self.copy(each)]
        entry = self.source.resolve(uri)
        if new_name is not None:
            goal = publishable_name(new_name)
            name, tag = goal.name or "", goal.tag or DEFAULT_TAG
        elif entry.name is not None and entry.tag is not None:
            name, tag = entry.name, entry.tag
        else:
            raise RegistryError(
                f"{uri} is a digest, which has no name; say under which one it goes (--as NAME@TAG)."
            )
        self._check_tag(entry, name, tag)
        copied = self._copy_parents(entry, {entry.digest}) if self.options.parents else []
        return [*copied, self._copy_one(entry, name, [tag], None)]

    # ---- tags ----------------------------------------------------------------------------------------

    def _target_ref(self, name: str, tag: str) -> Ref | None:
        """The target's ref, or None where there is none or a damaged one, which copying repairs."""
        if tag not in self.target.tags(name):
            return None
        try:
            return self.target.read_ref(name, tag)
        except CorruptEntryError:
            return None

    def _check_tag(self, entry: Entry, name: str, tag: str) -> None:
        """Refuse to take a tag from another entry, unless the source made the same step, from that entry to this."""
        there = self._target_ref(name, tag)
        if there is None or there.digest == entry.digest or self.options.force:
            return
        here = None
        if entry.name is not None and entry.tag is not None:
            here = self.source.read_ref(entry.name, entry.tag)
        if here is not None and here.digest == entry.digest and here.previous == there.digest:
            return
        backwards = (
            ", which that tag had before: it would move backwards" if there.previous == entry.digest else ""
        )
        raise RegistryError(
            f"{name}@{tag} in {self.target.root} is sha256:{there.digest} (since {there.updated}); the source has "
            f"sha256:{entry.digest}{backwards}. Copy under another tag (--as {name}@TAG), or take it away with --force."
        )

    # ---- content -------------------------------------------------------------------------------------

    def _copy_one(self, entry: Entry, name: str, tags: list[str], relation: str | None) -> Copied:
        result = Copied(entry.digest, name, tags, entry.manifest.size_bytes, relation=relation)
        if not self.options.repair and self._holds(entry):
            left = [
                tag
                for tag in tags
                if (ref := self._target_ref(name, tag)) is None or ref.digest != entry.digest
            ]
            if left:
                self.target.tag(entry.pinned_uri, left, name=name)
            return result
        ends = sum(not isinstance(end, Registry) for end in (self.source, self.target))
        self.on_entry(f"{name}@{tags[0]}", ends * entry.manifest.size_bytes)
        with self._counting():
            blob = self.source.fetch(entry)
            added = self.target.add(entry.manifest.to_bytes(), blob, name, tags)
        if added.digest != entry.digest:
            raise RegistryError(
                f"{entry.uri} became sha256:{added.digest} in {self.target.root}, expected {entry.digest}."
            )
        result.sent_bytes = entry.manifest.size_bytes
        return result

    def _holds(self, entry: Entry) -> bool:
        """Whether the target has manifest and blob, by name and size."""
        target = self.target
        if not isinstance(target, Registry):
            return target.holds(entry.digest, entry.manifest)
        try:
            target.require()  # what a copy of a folder that broke off left is no registry yet
            target.entry_of_manifest(entry.digest)
        except (FileNotFoundError, RegistryError):  # adding says what is wrong, if it is
            return False
        return True

    @contextmanager
    def _counting(self) -> Iterator[None]:
        ends = [end for end in (self.source, self.target) if not isinstance(end, Registry)]
        for end in ends:
            end.progress = self.on_bytes
        try:
            yield
        finally:
            for end in ends:
                end.progress = None

    # ---- parents -------------------------------------------------------------------------------------

    def _copy_parents(self, entry: Entry, seen: set[str]) -> list[Copied]:
        copied: list[Copied] = []
        for parent in entry.manifest.parents:
            if parent.digest is None or parent.relation == IMPORTED or parent.digest in seen:
                continue
            seen.add(parent.digest)
            try:
                found = self.source.entry_of_manifest(parent.digest)
            except FileNotFoundError:
                copied.append(Copied(parent.digest, None, [], relation=parent.relation, absent=True))
                continue
            copied += self._copy_parents(found, seen)
            name, tags = self._parent_tags(found, parent.uri, entry.name)
            copied.append(self._copy_one(found, name, tags, parent.relation))
        return copied

    def _parent_tags(self, parent: Entry, uri: str, child: str | None) -> tuple[str, list[str]]:
        """Where a parent goes: under tags of its own that are free at the target, never under its ``latest``."""
        if self._listings is None:
            self._listings = self.source.list_refs()
        known = [(ref.name, ref.tag) for ref in self._listings if ref.digest == parent.digest]
        name = known[0][0] if known else _name_in(uri) or child or "parents"
        tags = []
        for tag in (tag for each, tag in known if each == name and tag != DEFAULT_TAG):
            there = self._target_ref(name, tag)
            if there is None or there.digest == parent.digest:
                tags.append(tag)
        return name, tags or [f"d-{parent.digest[:16]}"]


def _name_in(uri: str) -> str | None:
    try:
        return check_name(parse_uri(uri).name)
    except RegistryError:
        return None
