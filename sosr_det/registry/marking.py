"""What a collection must keep: which blob a manifest needs, and which manifests it descends from.

The same for a folder and for a store; ``collect.py`` and ``remote/collect.py`` decide when, and remove.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sosr_det.errors import CorruptEntryError, RegistryError

if TYPE_CHECKING:
    from sosr_det.registry.reading import RegistryReader


@dataclass(frozen=True)
class Content:
    """What of a manifest matters here: its blob, and the manifests that it came from."""

    tensors_digest: str
    parents: tuple[str, ...]


class Marking:
    """Follows the manifests of a registry.

    Args:
        registry: local or remote.
        digests: the manifests that are there.
        known: what was read before, so that a second look reads only what is new; it is filled here.
    """

    def __init__(
        self, registry: RegistryReader, digests: set[str], known: dict[str, Content] | None = None
    ) -> None:
        self.registry = registry
        self.digests = digests
        self.known = {} if known is None else known

    def tagged(self) -> set[str]:
        """What the tags point to; their content is known from the refs' summaries, without reading manifests.

        Raises:
            RegistryError: a ref is damaged; what it pointed to might be lost.
        """
        tagged = set()
        for listing in self.registry.list_refs():
            if listing.digest is None or listing.summary is None:
                ref = f"{listing.name}@{listing.tag}"
                raise RegistryError(
                    f"nothing was removed: the tag {ref} cannot be followed, and what it points to might be lost "
                    f"({listing.error}) Repair it, or remove it with `sosr-det registry rm {ref}`."
                ) from listing.error
            self.known[listing.digest] = Content(listing.summary.tensors_digest, listing.summary.parents)
            tagged.add(listing.digest)
        return tagged

    def content(self, digest: str) -> Content:
        """Blob and parents of a manifest. Raises :class:`RegistryError` when it cannot be read."""
        if digest not in self.known:
            try:
                manifest = self.registry.read_manifest(digest)
            except (FileNotFoundError, RegistryError) as error:
                raise RegistryError(
                    f"nothing was removed: the manifest {digest} is kept but cannot be read, and its weights might be "
                    f"lost ({error}) `sosr-det registry verify --all` says more."
                ) from error
            parents = tuple(parent.digest for parent in manifest.parents if parent.digest)
            self.known[digest] = Content(manifest.tensors_digest, parents)
        return self.known[digest]

    def with_parents(self, digests: Iterable[str]) -> set[str]:
        """These manifests and all that they descend from, as far as they are here."""
        pending, found = list(digests), set[str]()
        while pending:
            digest = pending.pop()
            if digest not in found:
                found.add(digest)
                pending += [parent for parent in self.content(digest).parents if parent in self.digests]
        return found

    def children_first(self, digests: Iterable[str]) -> list[str]:
        """In such an order that a manifest can still be spared, with its parents, when its turn comes."""
        wanted = dict.fromkeys(digests)
        done: dict[str, None] = {}
        for first in wanted:
            stack = [(first, False)]
            while stack:
                digest, expanded = stack.pop()
                if expanded:
                    done.setdefault(digest)
                elif digest in wanted and digest not in done:
                    stack.append((digest, True))
                    stack += [(parent, False) for parent in self._parents(digest)]
        return list(reversed(done))

    def note(self, digest: str) -> str:
        """A few words about a manifest, for a list of what goes."""
        try:
            manifest = self.registry.read_manifest(digest)
        except CorruptEntryError:
            return "damaged"
        except (FileNotFoundError, RegistryError):
            return ""
        recipe = f", {manifest.recipe.config_name}" if manifest.recipe else ""
        return f"{manifest.arch.name}{recipe}, created {manifest.created}"

    def _parents(self, digest: str) -> tuple[str, ...]:
        try:
            return self.content(digest).parents
        except RegistryError:  # damaged: it has none that could be known
            return ()
