"""What is known about the weights behind a URI before anything is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sosr_det.errors import BackboneMismatchError, ConfigError, RegistryError, SosrError
from sosr_det.registry.manifest import Arch, Preprocessing
from sosr_det.registry.names import SCHEME
from sosr_det.registry.opening import open_registry

# Schemes that mmengine loads from; about the weights behind them nothing more is known here.
_OTHER_SCHEMES = ("http://", "https://", "open-mmlab://", "openmmlab://", "mmcls://", "s3://", "pavi://")
_TORCHVISION = ("torchvision://", "modelzoo://")
_TORCHVISION_PREPROCESSING = Preprocessing(
    "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "0-255", "bilinear", (224, 224)
)
_CHANNELS = {18: (64, 128, 256, 512), 34: (64, 128, 256, 512)}


@dataclass(frozen=True)
class WeightsSource:
    """The weights behind a URI.

    ``checkpoint`` goes into the config: the pinned URI of an entry, else ``uri`` itself. ``shapes`` of the tensors by
    name, ``arch`` and ``preprocessing`` are None where they are not known.
    """

    kind: str  # "entry", "torchvision", "file" or "url"
    uri: str
    checkpoint: str
    digest: str | None = None
    arch: Arch | None = None
    preprocessing: Preprocessing | None = None
    shapes: dict[str, tuple[int, ...]] | None = None
    has_probe: bool = False

    @property
    def depth(self) -> int | None:
        """Of a plain ResNet."""
        found = re.fullmatch(r"resnet(\d+)", self.arch.name) if self.arch else None
        return int(found[1]) if found else None


def look_up(uri: str, registry_root: str | Path | None = None) -> WeightsSource:
    """Find what a URI stands for; a file is read (safely), a download is not started.

    Raises:
        RegistryError: unknown entry, or one that holds a whole detector.
        BackboneMismatchError: a file that does not exist or is no checkpoint.
        ConfigError: a scheme that mmengine does not load.
    """
    if uri.startswith(SCHEME):
        return _entry(uri, registry_root)
    if uri.startswith(_TORCHVISION):
        return _torchvision(uri)
    if uri.startswith(_OTHER_SCHEMES):
        return WeightsSource("url", uri, uri)
    if "://" in uri:
        raise ConfigError(
            f"{uri}: mmengine loads nothing from {uri.partition('://')[0]}://. Use {SCHEME}NAME, torchvision://NAME, "
            "http(s)://… or a file; `sosr-det registry import` takes timm models into the registry."
        )
    if not Path(uri).exists() and _is_entry(uri, registry_root):
        raise ConfigError(f"there is no file {uri}; did you mean {SCHEME}{uri}, which the registry holds?")
    return WeightsSource("file", uri, uri, shapes=file_shapes(uri))


def _is_entry(name: str, registry_root: str | Path | None) -> bool:
    """Whether NAME[@TAG] without its scheme is an entry; a registry that cannot be read has none."""
    try:
        open_registry(registry_root).resolve(f"{SCHEME}{name}")
    except (SosrError, OSError):
        return False
    return True


def file_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a weights file as mmengine will see them, read without running code from it.

    Raises:
        BackboneMismatchError: no such file, no checkpoint, or nothing but other things than tensors.
    """
    from sosr_det.registry.safe_load import load_state_file

    try:
        content = load_state_file(path)
    except SosrError as error:
        raise BackboneMismatchError(f"the backbone file cannot be used: {error}") from error
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise BackboneMismatchError(f"the backbone file {path} has no state dict under 'state_dict'.")
    # mmengine strips this prefix itself.
    return {str(k).removeprefix("module."): tuple(getattr(v, "shape", ())) for k, v in state.items()}


def _entry(uri: str, registry_root: str | Path | None) -> WeightsSource:
    entry = open_registry(registry_root).resolve(uri)
    manifest = entry.manifest
    if manifest.kind != "backbone":
        parent = next((p.uri for p in manifest.parents if p.relation == "detector-on"), None)
        hint = f" It stands on {parent}." if parent else ""
        raise RegistryError(f"{uri} holds a whole {manifest.kind}, expected a backbone.{hint}")
    return WeightsSource(
        "entry",
        entry.uri,
        entry.pinned_uri,
        entry.digest,
        manifest.arch,
        manifest.preprocessing,
        {name: tuple(spec.shape) for name, spec in manifest.tensors.items()},
        manifest.probe is not None,
    )


def _torchvision(uri: str) -> WeightsSource:
    """torchvision's ImageNet weights share one preprocessing; the variants of a ResNet have its layout."""
    name = uri.partition("://")[2].partition(".")[0].lower()
    found = re.fullmatch(r"resnet(18|34|50|101|152)", name)
    channels = _CHANNELS.get(int(found[1]), (256, 512, 1024, 2048)) if found else ()
    arch = Arch(name, "torchvision", "pytorch", "7x7/2 conv, 3x3/2 max pool", channels)
    return WeightsSource("torchvision", uri, uri, arch=arch, preprocessing=_TORCHVISION_PREPROCESSING)
