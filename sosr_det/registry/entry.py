"""What a registry answers with: an entry, and a line of a list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sosr_det.errors import RegistryError
from sosr_det.registry.manifest import Manifest, Summary
from sosr_det.registry.names import SosrUri


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
