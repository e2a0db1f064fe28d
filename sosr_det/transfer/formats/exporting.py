"""``sosr-det registry export``: a registry entry as a file that other projects read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.registry.opening import open_registry
from sosr_det.transfer.formats.naming import mmdet_state, mmdet_usage, require_format, timm_name
from sosr_det.transfer.formats.output import new_file
from sosr_det.transfer.own_files import texts_of

FORMATS = ("safetensors", "torchvision", "timm", "mmdet", "onnx")
_SUFFIXES = {
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pt"),
    "timm": (".safetensors", ".pth", ".pt"),
    "mmdet": (".pth", ".pt"),
    "onnx": (".onnx",),
}


def export_entry(
    uri: str,
    format_name: str,
    out: str | Path,
    registry_root: str | Path | None = None,
    *,
    force: bool = False,
    include_preprocessing: bool = False,
) -> dict[str, Any]:
    """Write an entry's tensors, verified while they are read, to ``out``.

    Every format keeps the tensors bit for bit. ``safetensors``: names as in the registry, and the manifest as texts in
    ``__metadata__``. ``torchvision``: a plain state dict without ``fc``. ``timm``: the same, loads strictly into
    ``timm.create_model(NAME, num_classes=0)``; as .safetensors or .pth. ``mmdet``: ``{"state_dict": {"backbone.…"},
    "meta": {…}}`` as MMPretrain's and MMDetection's own checkpoints. ``onnx``: see
    :func:`sosr_det.transfer.formats.onnx_file.write_onnx`.

    Args:
        uri: of the entry.
        format_name: one of :data:`FORMATS`.
        out: file to write; its suffix must be one of the format's.
        registry_root: default ``$SOSR_REGISTRY``, else ``./registry``.
        force: replace an existing file.
        include_preprocessing: for ``onnx``, take pixels instead of normalised values.

    Returns:
        Plain dict: ``file``, ``format``, ``size_bytes``, ``uri``, ``digest``, ``tensors_digest``, ``num_tensors``,
        ``usage`` (how the file is loaded), and for ``onnx`` what :func:`write_onnx` returned.

    Raises:
        ConfigError: unknown format, a suffix that does not fit, or an entry that the format cannot hold.
        CheckpointError: the file exists, cannot be written, or does not compute what it should.
        RegistryError: see :meth:`Registry.load`.
    """
    out = Path(out)
    if format_name not in FORMATS:
        raise ConfigError(f"--format is {format_name!r}, expected one of {', '.join(FORMATS)}.")
    if out.suffix not in _SUFFIXES[format_name]:
        raise ConfigError(
            f"--out {out} does not end in {' or '.join(_SUFFIXES[format_name])}, as readers of {format_name} expect."
        )
    if include_preprocessing and format_name != "onnx":
        raise ConfigError(f"--include-preprocessing is for onnx; a {format_name} file holds tensors alone.")
    registry = open_registry(registry_root)
    entry = registry.resolve(uri)
    manifest = entry.manifest
    require_format(manifest, format_name, uri)
    details: dict[str, Any] = {}
    with new_file(out, force) as temporary:
        tensors = registry.load(entry)
        texts = texts_of(manifest, entry.uri)
        if format_name == "onnx":
            from sosr_det.transfer.formats.onnx_file import write_onnx

            details = write_onnx(temporary, manifest, tensors, texts, include_preprocessing)
            details["check"] = asdict(details["check"])
        elif out.suffix == ".safetensors":
            _save_safetensors(tensors, temporary, texts)
        elif format_name == "mmdet":
            _save_pickle({"meta": texts, "state_dict": mmdet_state(manifest, tensors)}, temporary)
        else:
            _save_pickle(tensors, temporary)
    return {
        "file": str(out),
        "format": format_name,
        "size_bytes": out.stat().st_size,
        "uri": entry.uri,
        "digest": entry.digest,
        "tensors_digest": entry.tensors_digest,
        "num_tensors": len(manifest.tensors),
        "usage": _usage(format_name, manifest, out),
    } | details


def _save_safetensors(tensors: dict[str, Any], path: Path, texts: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"} | texts)
    except SafetensorError as error:  # which is how it reports a full disk
        raise CheckpointError(f"cannot write the file: {error}. Check the free space.") from error


def _save_pickle(content: dict[str, Any], path: Path) -> None:
    import torch

    try:
        torch.save(content, path)
    except RuntimeError as error:  # which is how it reports a full disk
        raise CheckpointError(
            f"cannot write the file: {str(error).splitlines()[0]}. Check the free space."
        ) from error


def _usage(format_name: str, manifest: Any, out: Path) -> str:
    name = str(out)
    read = f"safetensors.torch.load_file({name!r})"
    if out.suffix != ".safetensors":
        read = f"torch.load({name!r}, weights_only=True)"
    if format_name == "mmdet":
        return mmdet_usage(manifest, name)
    if format_name == "timm":
        return (
            f"timm.create_model({timm_name(manifest)!r}, num_classes=0).load_state_dict({read}, strict=True)"
        )
    if format_name == "torchvision":
        return f"torchvision.models.{manifest.arch.name}().load_state_dict({read}, strict=False)  # fc is missing"
    if format_name == "onnx":
        return f"onnxruntime.InferenceSession({name!r}).run(None, {{'images': images}})"
    return read
