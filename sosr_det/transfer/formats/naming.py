"""Which formats an entry can have, and what its tensors are called there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sosr_det.errors import ConfigError
from sosr_det.models.imagenet_resnets import SPECS
from sosr_det.registry.manifest import Manifest


def timm_name(manifest: Manifest) -> str | None:
    """The timm model that holds an entry's tensors under their own names, or None; it has torchvision's ResNets too."""
    arch = manifest.arch
    if arch.library == "timm":
        return arch.name.removeprefix("timm/")
    return arch.name if arch.name in SPECS else None


def require_format(manifest: Manifest, name: str, uri: str) -> None:
    """Raise :class:`ConfigError` where a format cannot hold the entry so that its readers compute the same.

    ResNets of "caffe" style have the tensors of the others and stride elsewhere: torchvision and timm would load them
    without a word and compute something else.
    """
    arch = manifest.arch
    family = arch.name in SPECS
    if name == "safetensors":
        return
    if manifest.kind != "backbone":
        if name != "mmdet":
            raise ConfigError(
                f"{uri} is a whole {manifest.kind}; export it as mmdet or safetensors, or its backbone."
            )
        return
    if name == "torchvision" and not family:
        raise ConfigError(
            f"{uri} holds a {arch.name}, which is none of torchvision's ResNets; export it as safetensors."
        )
    if name == "timm" and timm_name(manifest) is None:
        raise ConfigError(f"{uri} holds a {arch.name}, which timm does not have; export it as safetensors.")
    if name == "mmdet" and (not family or arch.name.startswith("wide")):
        # MMDetection's ResNeXt ignores base_width where there is one group.
        raise ConfigError(
            f"{uri} holds a {arch.name}, which no backbone of MMDetection holds by these names; "
            "export it as safetensors."
        )
    if name in ("torchvision", "timm") and arch.style == "caffe":
        raise ConfigError(
            f"{uri} is of caffe style (its bottlenecks stride in the first 1x1 convolution). {name} strides in the 3x3 "
            "one, so it would load these tensors and compute something else. Export it as mmdet (style='caffe' in the "
            "config), onnx or safetensors."
        )


def mmdet_state(manifest: Manifest, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in MMDetection's and MMPretrain's checkpoints; a detector's are those already."""
    prefix = "backbone." if manifest.kind == "backbone" else ""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def mmdet_usage(manifest: Manifest, file: str) -> str:
    """The lines of a config that use the exported file."""
    if manifest.kind != "backbone":
        return f"load_from = {file!r}"
    arch, pixels = manifest.arch, manifest.preprocessing
    factor = 255 if pixels.scale == "0-1" else 1
    depth = SPECS[arch.name].depth
    kind = f"type='ResNet', depth={depth}"
    if arch.name.startswith("resnext"):
        groups, width = arch.name.rpartition("_")[2].removesuffix("d").split("x")
        kind = f"type='ResNeXt', depth={depth}, groups={groups}, base_width={width}"
    mean, std = ([round(value * factor, 6) for value in values] for values in (pixels.mean, pixels.std))
    return (
        f"backbone=dict({kind}, style={arch.style!r},\n"
        f"              init_cfg=dict(type='Pretrained', checkpoint={file!r}, prefix='backbone.'))\n"
        f"data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={pixels.channel_order == 'rgb'})"
    )
