"""Where entries come from and what came of them. Needs refs, and for a family tree manifests; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sosr_det.errors import RegistryError
from sosr_det.registry.entry import Entry, Listing
from sosr_det.registry.manifest import Manifest, Parent, Summary
from sosr_det.registry.names import DEFAULT_TAG, SCHEME, SosrUri

if TYPE_CHECKING:
    from sosr_det.registry.store import Registry

_DEPTH_LIMIT = 100  # generations that a tree shows


@dataclass
class Node:
    """An entry in the graph: its manifest's digest, what lists show of it, and the ``name@tag`` that lead to it."""

    digest: str
    summary: Summary
    names: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """One name for it: with a tag of its own where it has one, which unlike ``latest`` stays."""
        own = [name for name in self.names if not name.endswith(f"@{DEFAULT_TAG}")]
        return next(iter(own + self.names), f"sha256:{self.digest}")


@dataclass
class Branch:
    """One place in a family tree.

    ``label`` names it; ``relation`` says how it came from the place above it (None at the top); ``state`` is
    "entry", "absent" (an entry that is not in this registry), "damaged", or "outside" (a file or a model-zoo name);
    ``is_subject`` marks the entry whose tree it is; ``repeated`` that it has been shown further up, with all below it.
    """

    label: str
    digest: str | None
    state: str
    relation: str | None = None
    node: Node | None = None
    is_subject: bool = False
    repeated: bool = False
    children: list[Branch] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, the children included."""
        summary = self.node.summary if self.node else None
        return {
            "label": self.label,
            "digest": self.digest,
            "state": self.state,
            "relation": self.relation,
            "names": list(self.node.names) if self.node else [],
            "kind": summary.kind if summary else None,
            "arch": summary.arch if summary else None,
            "metrics": dict(summary.metrics) if summary else {},
            "is_subject": self.is_subject,
            "repeated": self.repeated,
            "children": [child.to_dict() for child in self.children],
        }


class Lineage:
    """The graph of all entries that refs lead to, by their manifests' digests. Made from refs alone."""

    def __init__(self, listings: Iterable[Listing]) -> None:
        self.nodes: dict[str, Node] = {}
        self._children: dict[str, list[str]] = {}
        self._below: dict[str, list[Node]] = {}
        for listing in listings:
            if listing.digest is not None and listing.summary is not None:
                self.add(listing.digest, listing.summary).names.append(f"{listing.name}@{listing.tag}")

    def add(self, digest: str, summary: Summary) -> Node:
        """Put an entry into the graph, if it is not there, and return it."""
        if digest not in self.nodes:
            self.nodes[digest] = Node(digest, summary)
            self._below.clear()
            for parent in dict.fromkeys(summary.parents):
                self._children.setdefault(parent, []).append(digest)
        return self.nodes[digest]

    def parents(self, digest: str) -> list[str]:
        """Digests that an entry names as its parents, whether they are in the graph or not."""
        node = self.nodes.get(digest)
        return list(dict.fromkeys(node.summary.parents)) if node else []

    def children(self, digest: str) -> list[str]:
        """Digests of the entries that name this one as a parent; the digest itself need not be in the graph."""
        return list(self._children.get(digest, ()))

    def ancestors(self, digest: str) -> list[str]:
        """Digests of all known entries above, near ones first. A loop, which only damage can make, ends the walk."""
        return [found for found in _reach(digest, self.parents) if found in self.nodes]

    def descendants(self, digest: str) -> list[str]:
        """Digests of all entries below, near ones first."""
        return _reach(digest, self.children)

    def detectors_below(self, digest: str) -> list[Node]:
        """The detectors that stand on this entry, directly or on something fine-tuned from it."""
        if digest not in self._below:
            below = [self.nodes[found] for found in self.descendants(digest)]
            self._below[digest] = [node for node in below if node.summary.kind == "detector"]
        return self._below[digest]


def family_tree(registry: Registry, entry: Entry) -> list[Branch]:
    """Everything above an entry up to its roots, and everything below it, as trees: one for each root.

    Also entries that no name leads to any more are found, as long as their manifests are there. Other descendants of
    the ancestors are left out.
    """
    lineage = Lineage(registry.list_refs())
    manifests: dict[str, Manifest | None] = {entry.digest: entry.manifest}
    lineage.add(entry.digest, entry.manifest.summary())
    _add_nameless(registry, lineage, manifests)
    above, below = lineage.ancestors(entry.digest), lineage.descendants(entry.digest)
    for digest in (*above, *below):
        if digest not in manifests:
            manifests[digest] = _read(registry, digest)
    return _Planter(lineage, manifests, entry.digest, {*above, *below, entry.digest}, set(above)).roots()


def _reach(start: str, step: Callable[[str], list[str]]) -> list[str]:
    found: dict[str, None] = {}
    queue = step(start)
    while queue:
        ahead = []
        for digest in queue:
            if digest != start and digest not in found:
                found[digest] = None
                ahead += step(digest)
        queue = ahead
    return list(found)


def _add_nameless(registry: Registry, lineage: Lineage, manifests: dict[str, Manifest | None]) -> None:
    """Parents that lost their name, as when a tag moved on, still link the entries above and below them."""
    stored: set[str] | None = None
    while missing := [
        parent
        for node in list(lineage.nodes.values())
        for parent in node.summary.parents
        if parent not in lineage.nodes and parent not in manifests
    ]:
        stored = set(registry.manifest_digests()) if stored is None else stored
        for digest in dict.fromkeys(missing):
            manifests[digest] = manifest = _read(registry, digest) if digest in stored else None
            if manifest is not None:
                lineage.add(digest, manifest.summary())


def _read(registry: Registry, digest: str) -> Manifest | None:
    try:
        return registry.read_manifest(digest)
    except (RegistryError, FileNotFoundError):
        return None


class _Planter:
    """Draws the part ``kept`` of the graph as trees. A key is a digest, or the Parent of something outside."""

    def __init__(
        self,
        lineage: Lineage,
        manifests: dict[str, Manifest | None],
        subject: str,
        kept: set[str],
        above: set[str],
    ) -> None:
        self.lineage, self.manifests, self.subject, self.kept, self.above = (
            lineage,
            manifests,
            subject,
            kept,
            above,
        )
        self.below: dict[str | Parent, list[tuple[str, str]]] = {}  # key -> (child, relation)
        self.tops: dict[str | Parent, None] = {}
        for digest in sorted(kept, key=lambda d: (lineage.nodes[d].summary.created, lineage.nodes[d].label)):
            self._hang(digest)
        self.seen: set[str | Parent] = set()

    def roots(self) -> list[Branch]:
        tops = list(self.tops) or [self.subject]
        return [self._branch(top, None, 0) for top in tops]

    def _hang(self, digest: str) -> None:
        """Put an entry below each of its parents; below none, it is a root."""
        wanted = self.above | {self.subject}
        manifest = self.manifests.get(digest)
        parents = manifest.parents if manifest else [Parent("", d, "") for d in self.lineage.parents(digest)]
        hung = False
        for parent in parents:
            key: str | Parent = parent
            if parent.digest in self.kept:
                key = str(parent.digest)
            elif digest not in wanted:
                continue  # another parent of a descendant is not this entry's family
            else:
                self.tops[key] = None
            self.below.setdefault(key, []).append((digest, parent.relation))
            hung = True
        if not hung:
            self.tops[digest] = None

    def _branch(self, key: str | Parent, relation: str | None, depth: int) -> Branch:
        if isinstance(key, Parent):
            is_entry = not key.uri or key.uri.startswith(SCHEME)
            label = key.uri or str(SosrUri(digest=key.digest))
            branch = Branch(label, key.digest, "absent" if is_entry else "outside", relation)
        else:
            node = self.lineage.nodes[key]
            state = "entry" if self.manifests.get(key) else "damaged"
            branch = Branch(node.label, key, state, relation, node, is_subject=key == self.subject)
        below = self.below.get(key, [])
        branch.repeated = key in self.seen and bool(below)
        self.seen.add(key)
        if not branch.repeated and depth < _DEPTH_LIMIT:
            branch.children = [self._branch(child, how or None, depth + 1) for child, how in below]
        return branch
