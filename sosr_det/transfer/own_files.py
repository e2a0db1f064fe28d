"""The manifest that travels inside a file that ``sosr-det registry export`` writes, and its way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sosr_det.errors import CheckpointError, RegistryError
from sosr_det.registry.digest import canonical_json
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.strict_json import parse_json

# Keys of the texts; for people the first three, for import the last.
URI, DIGEST, PREPROCESSING, MANIFEST = ("sosr_uri", "sosr_digest", "sosr_preprocessing", "sosr_manifest")


def texts_of(manifest: Manifest, uri: str) -> dict[str, str]:
    """What an exported file says about the entry, as texts, which is all that safetensors can hold."""
    document = manifest.to_dict()
    return {
        URI: uri,
        DIGEST: f"sha256:{manifest.digest}",
        PREPROCESSING: canonical_json(document["preprocessing"]).decode("ascii"),
        MANIFEST: canonical_json(document).decode("ascii"),
    }


def manifest_of(texts: Mapping[str, Any]) -> Manifest | None:
    """The manifest in the texts of a file, checked as strictly as one in a registry; None where there is none.

    Raises:
        CheckpointError: it is damaged. That the file's tensors are the manifest's is for the caller to compare.
    """
    text = texts.get(MANIFEST)
    if not isinstance(text, str):
        return None
    try:
        return Manifest.from_dict(parse_json(text.encode("utf-8", "surrogatepass")))
    except (ValueError, RegistryError) as error:
        raise CheckpointError(
            f"the file says that sosr-det exported it, but the manifest in it is damaged: {error} Export it again."
        ) from error
