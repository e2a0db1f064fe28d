"""Files that ``sosr-det registry export`` wrote: they hold their manifest, which says everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sosr_det.errors import CheckpointError
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.safe_load import safetensors_metadata
from sosr_det.transfer.foreign.evidence import Evidence
from sosr_det.transfer.own_files import manifest_of


def manifest_in(path: Path, content: Mapping[str, Any]) -> Manifest | None:
    """The manifest in an exported file: in a safetensors file's metadata, or under ``meta`` of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or is a detector's.
    """
    meta = content.get("meta")
    manifest = manifest_of(safetensors_metadata(path)) or manifest_of(
        meta if isinstance(meta, Mapping) else {}
    )
    if manifest is not None and manifest.kind != "backbone":
        raise CheckpointError(
            f"{path} was exported from an entry that holds a whole {manifest.kind}; import takes backbones. "
            "`sosr-det registry pull` copies whole entries from another registry."
        )
    return manifest


def evidence_of(manifest: Manifest) -> Evidence:
    """What the manifest in the file says."""
    return Evidence(
        project="sosr-det registry export",
        why=f"the manifest in it, sha256:{manifest.digest[:16]}…",
        arch=manifest.arch.name,
        style=manifest.arch.style,
        style_why="the manifest in the file" if manifest.arch.style else "",
        preprocessing=manifest.preprocessing,
        preprocessing_why="the manifest in the file",
        classes=manifest.classes,
        metrics=dict(manifest.metrics),
        license=manifest.license,
        license_why="the manifest in the file",
        data=manifest.data["name"] if manifest.data else None,
        recipe=None
        if manifest.recipe is None
        else {"config_name": manifest.recipe.config_name, "config_text": manifest.recipe.config_text},
        seed=manifest.seed,
    )


def require_same(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raise :class:`CheckpointError` unless the tensors are those that the manifest in the file describes."""
    if (found := tensors_digest(tensors)) != manifest.tensors_digest:
        raise CheckpointError(
            f"the file's manifest describes tensors with the digest {manifest.tensors_digest[:16]}…, the file holds "
            f"{found[:16]}…: it was changed or damaged after its export. Export it again."
        )
