"""torchvision's ResNets for 224 px, with the parameter names of MMDetection's."""

from __future__ import annotations

from torch import nn

from sosr_det.models.backbone_spec import BackboneSpec

_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)

SPECS = {
    f"resnet{depth}": BackboneSpec(
        name=f"resnet{depth}",
        source="torchvision",
        source_name=f"resnet{depth}",
        style="pytorch",
        stem="7x7/2 conv, 3x3/2 max pool",
        initialisation="convolutions He-normal over the fan-out, batch norm 1 and 0 (torchvision's own)",
        depth=depth,
        stage_channels=channels,
        num_features=channels[-1],
    )
    for depth, channels in (
        (18, _BASIC),
        (34, _BASIC),
        (50, _BOTTLENECK),
        (101, _BOTTLENECK),
        (152, _BOTTLENECK),
    )
}


def build(spec: BackboneSpec) -> nn.Module:
    """The network of one of :data:`SPECS` without ``fc``."""
    import torchvision

    network = torchvision.models.get_model(spec.source_name, weights=None)
    network.fc = nn.Identity()
    return network
