"""The published CIFAR networks, as pytorchcv has them, for images of 32 px and more.

Some of them are not what a paper's text says, but what its readers run:

- ResNet-20/56/110 and SE-ResNet-110 have projection shortcuts at the two units that stride ("option B"); He et al.
  (arXiv:1512.03385, section 4.2) pad with zeros there, which is 2 752 parameters less.
- ``resnet56_bottleneck`` and ``resnet110_bottleneck`` are not published networks but what the SOSR authors' later
  scripts train as ResNet-56 and ResNet-110 (https://github.com/cs-xuancheng/SelectiveOutputSmoothing).
- PyramidNet rounds the widths of its units, as its authors' Lua and PyTorch code does; equation 2 of the paper
  (arXiv:1610.02915) rounds them down.
"""

from __future__ import annotations

from torch import nn

from sosr_det.models.backbone_spec import BackboneSpec

INITIALISATION = "convolutions He-uniform over the fan-in, biases 0, batch norm 1 and 0 (pytorchcv's own)"

_RESNET = (16, 32, 64)
_BOTTLENECK = (64, 128, 256)

SPECS = {
    name: BackboneSpec(
        name=name,
        source="pytorchcv",
        source_name=(
            f"get_resnet_cifar(blocks={depth}, bottleneck=True)"
            if channels is _BOTTLENECK
            else f"{name}_cifar10"
        ),
        style=None,
        stem="3x3/1 conv",
        initialisation=INITIALISATION,
        depth=depth,
        stage_channels=channels,
        num_features=channels[-1],
    )
    for name, depth, channels in (
        ("resnet20", 20, _RESNET),
        ("resnet56", 56, _RESNET),
        ("resnet110", 110, _RESNET),
        ("resnet56_bottleneck", 56, _BOTTLENECK),
        ("resnet110_bottleneck", 110, _BOTTLENECK),
        ("seresnet110", 110, _RESNET),
        ("densenet100_k12_bc", 100, (216, 300, 342)),
        ("wrn28_10", 28, (160, 320, 640)),
        ("pyramidnet110_a48", 110, (32, 48, 64)),
        ("pyramidnet110_a84", 110, (44, 72, 100)),
    )
}


def build(spec: BackboneSpec) -> nn.Module:
    """The network of one of :data:`SPECS` without ``output``, with global average pooling.

    pytorchcv pools with an 8x8 window, which is the whole map at 32 px only; a global mean is the same there and
    also right at 64 px (Tiny ImageNet).
    """
    from pytorchcv.model_provider import get_model
    from pytorchcv.models.resnet_cifar import get_resnet_cifar

    if spec.name.endswith("_bottleneck"):
        network = get_resnet_cifar(num_classes=10, blocks=spec.depth, bottleneck=True)
    else:
        network = get_model(spec.source_name, pretrained=False)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    network.output = nn.Identity()
    return network
