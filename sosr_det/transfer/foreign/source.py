"""From what the user named to one file on this machine, its hash, and what its name says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.registry.hub_cache import fetch
from sosr_det.transfer.foreign import timm_zoo, torchvision_zoo
from sosr_det.transfer.foreign.evidence import Evidence

_FORMS = (
    f"expected a checkpoint file, {torchvision_zoo.SCHEME}ResNet50_Weights.IMAGENET1K_V2, "
    f"{torchvision_zoo.SCHEME}resnet50, or {timm_zoo.SCHEME}resnet50.a1_in1k"
)


@dataclass(frozen=True)
class Source:
    """``uri`` in full as it goes into the manifest; ``identity`` of the file when it was hashed."""

    uri: str
    path: Path
    sha256: str
    size_bytes: int
    identity: tuple[int, ...]
    evidence: Evidence | None = None
    notes: list[str] = field(default_factory=list)

    def require_unchanged(self) -> None:
        """Raise :class:`CheckpointError` if the file is another one than that which was hashed."""
        if _identity(self.path) != self.identity:
            raise CheckpointError(
                f"{self.path} changed while it was read; import it again once it is complete."
            )


def find_source(text: str) -> Source:
    """Resolve a SOURCE; weights by name are fetched into the cache of the library that they come from.

    Raises:
        ConfigError: an unknown scheme or name.
        CheckpointError: the file is missing, cannot be fetched, or is not the one that its publisher's hash promises.
    """
    if text.startswith(torchvision_zoo.SCHEME):
        weights, notes = torchvision_zoo.find_weights(text.removeprefix(torchvision_zoo.SCHEME))
        evidence = torchvision_zoo.evidence_of(weights, "its name")
        return _hashed(f"{torchvision_zoo.SCHEME}{weights}", fetch(weights.url), evidence, notes)
    if text.startswith(timm_zoo.SCHEME):
        path, uri, evidence = timm_zoo.find_weights(text.removeprefix(timm_zoo.SCHEME))
        source = _hashed(uri, path, evidence, [])
        blob = Path(os.path.realpath(path)).name  # the hub's cache names a file by its SHA-256
        if len(blob) == 64 and blob != source.sha256:
            raise CheckpointError(
                f"{path} has the SHA-256 {source.sha256[:16]}…, the Hugging Face cache promises {blob[:16]}…: it is "
                "damaged. Remove it to download it again."
            )
        return source
    if "://" in text:
        raise ConfigError(f"{text!r} is no source that is known here: {_FORMS}.")
    path = Path(text).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; {_FORMS}.")
    return _hashed(path.name, path, None, [])


def _hashed(uri: str, path: Path, evidence: Evidence | None, notes: list[str]) -> Source:
    try:
        identity = _identity(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. Check its access."
        ) from error
    return Source(uri, path, sha256, identity[0], identity, evidence, notes)


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
