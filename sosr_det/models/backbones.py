"""The one place where a backbone is built by name."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass

import torchvision
from torch import nn

from sosr_det.errors import ConfigError


@dataclass(frozen=True)
class BackboneSpec:
    """What a consumer must know about a backbone besides its tensors.

    Attributes:
        name: architecture name in ``source``, for example ``resnet50``.
        source: library whose parameter names the tensors carry (``torchvision``).
        style: where a bottleneck strides: ``pytorch`` (3x3 convolution) or ``caffe`` (first 1x1).
            Both have the same parameter names and shapes, so only this field tells them apart.
        stem: the layers before the first stage.
        depth: number of weighted layers, MMDetection's ``depth`` of its ResNet.
        stage_channels: output channels of the four stages, at strides 4, 8, 16 and 32.
        num_features: width of the pooled feature vector.
    """

    name: str
    source: str
    style: str
    stem: str
    depth: int
    stage_channels: tuple[int, ...]
    num_features: int

    def to_dict(self) -> dict:
        """Plain JSON types, for run records and manifests."""
        return {**asdict(self), "stage_channels": list(self.stage_channels)}


_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)
_RESNETS = {
    f"resnet{depth}": BackboneSpec(
        f"resnet{depth}",
        "torchvision",
        "pytorch",
        "7x7/2 conv, 3x3/2 max pool",
        depth,
        channels,
        channels[-1],
    )
    for depth, channels in (
        (18, _BASIC),
        (34, _BASIC),
        (50, _BOTTLENECK),
        (101, _BOTTLENECK),
        (152, _BOTTLENECK),
    )
}


def available_backbones() -> list[str]:
    """Names that :func:`build_backbone` knows, sorted by depth."""
    return sorted(_RESNETS, key=lambda name: _RESNETS[name].depth)


def build_backbone(name: str) -> tuple[nn.Module, BackboneSpec]:
    """Build a randomly initialised backbone without its classifier.

    The module maps images ``[M, 3, H, W]`` to pooled features ``[M, num_features]``, and its state dict has
    exactly the parameter names of MMDetection's ResNet, so that the tensors transfer one to one.

    Raises:
        ConfigError: unknown name; the message lists near ones.
    """
    if name not in _RESNETS:
        near = difflib.get_close_matches(str(name), _RESNETS, n=3) or available_backbones()
        raise ConfigError(f"unknown backbone {name!r}; did you mean one of: {', '.join(near)}?")
    network = torchvision.models.get_model(name, weights=None)
    network.fc = nn.Identity()
    return network, _RESNETS[name]
