"""torchvision's ResNets for 224 px, with the parameter names of MMDetection's ``ResNet`` and ``ResNeXt``."""

from __future__ import annotations

from torch import nn

from sosr_det.models.backbone_spec import BackboneSpec

_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)

SPECS = {
    name: BackboneSpec(
        name=name,
        source="torchvision",
        source_name=name,
        style="pytorch",
        stem="7x7/2 conv, 3x3/2 max pool",
        initialisation="convolutions He-normal over the fan-out, batch norm 1 and 0 (torchvision's own)",
        depth=depth,
        stage_channels=channels,
        num_features=channels[-1],
    )
    for name, depth, channels in (
        ("resnet18", 18, _BASIC),
        ("resnet34", 34, _BASIC),
        ("resnet50", 50, _BOTTLENECK),
        ("resnet101", 101, _BOTTLENECK),
        ("resnet152", 152, _BOTTLENECK),
        ("resnext50_32x4d", 50, _BOTTLENECK),
        ("resnext101_32x8d", 101, _BOTTLENECK),
        ("resnext101_64x4d", 101, _BOTTLENECK),
        ("wide_resnet50_2", 50, _BOTTLENECK),
        ("wide_resnet101_2", 101, _BOTTLENECK),
    )
}


def build(spec: BackboneSpec) -> nn.Module:
    """The network of one of :data:`SPECS` without ``fc``."""
    import torchvision

    network = torchvision.models.get_model(spec.source_name, weights=None)
    network.fc = nn.Identity()
    return network


def has_bottlenecks(network: nn.Module) -> bool:
    """Whether the network's blocks are bottlenecks, for which "style" says where they stride."""
    return any(hasattr(block, "conv3") for block in getattr(network, "layer1", ()))


def set_style(network: nn.Module, style: str) -> nn.Module:
    """Make the bottlenecks stride in the first 1x1 convolution ("caffe") or in the 3x3 one ("pytorch"), in place.

    The parameters are the same in both, so nothing but the strides changes; basic blocks have no such choice.

    Raises:
        ValueError: another style.
    """
    if style not in ("pytorch", "caffe"):
        raise ValueError(f"style must be 'pytorch' or 'caffe', got {style!r}")
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for block in getattr(network, name):
            if not hasattr(block, "conv3"):
                continue
            stride = max(block.conv1.stride, block.conv2.stride)
            block.conv1.stride, block.conv2.stride = (
                ((1, 1), stride) if style == "pytorch" else (stride, (1, 1))
            )
    return network
