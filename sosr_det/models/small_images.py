"""ImageNet networks made fit for 32 px: the published networks, with fewer strides and nothing else changed.

At 32 px an ImageNet network's stride of 32 leaves one pixel. Which strides to drop is taken from the
re-implementations that CIFAR papers use: https://github.com/kuangliu/pytorch-cifar (``models/mobilenet.py``,
``mobilenetv2.py``, ``regnet.py``, ``vgg.py``), with which
https://github.com/weiaicunzai/pytorch-cifar100 agrees for MobileNet. Widths, activations and shortcuts stay those of
the published networks, where these re-implementations changed some (RegNetX's stem has 64 channels there, not 32).
"""

from __future__ import annotations

import torch
from torch import nn

from sosr_det.errors import InstallationError
from sosr_det.models.backbone_spec import BackboneSpec

_FAN_OUT = "convolutions He-normal over the fan-out, biases 0, batch norm 1 and 0"


def _vgg19_bn() -> nn.Module:
    from torchvision.models.vgg import VGG, cfgs, make_layers

    features = make_layers(cfgs["E"], batch_norm=True)
    # The three linear layers, of 124M parameters, are dropped; on "meta" they cost neither time nor memory.
    with torch.device("meta"):
        network = VGG(features)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Identity()
    return network


def _mobilenet() -> nn.Module:
    from pytorchcv.model_provider import get_model

    network = get_model("mobilenet_w1", pretrained=False)
    _drop_stride(network.features.init_block)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    network.output = nn.Identity()
    return network


def _mobilenetv2() -> nn.Module:
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(weights=None)
    _drop_stride(network.features[0])
    _drop_stride(network.features[2])  # the first block of 24 channels; the one of 16 before it has stride 1
    network.classifier = nn.Identity()
    return network


def _regnetx_200mf() -> nn.Module:
    import timm

    # timm starts the last batch norm of each block at 0; pycls, which made the published network, at 1.
    network = timm.create_model("regnetx_002", pretrained=False, num_classes=0, zero_init_last=False)
    for stage in (network.stem, network.s1, network.s2):
        _drop_stride(stage)
    return network


def _drop_stride(module: nn.Module) -> None:
    """Set every stride of 2 in ``module`` to 1.

    Raises:
        InstallationError: there is none, so the installed library has another network than this file was made for.
    """
    strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    if not strided:
        raise InstallationError(
            "the installed torchvision, pytorchcv or timm lays this network out otherwise than sosr-det expects: "
            "no stride 2 where one must be dropped for 32 px images. Reinstall sosr-det with its dependencies."
        )
    for convolution in strided:
        convolution.stride = (1, 1)


_NETWORKS = {
    "vgg19_bn_32px": (
        _vgg19_bn,
        BackboneSpec(
            name="vgg19_bn_32px",
            source="torchvision",
            source_name="vgg19_bn",
            style=None,
            stem="3x3/1 conv, no stride changed; global average pooling (1x1 at 32 px) straight into one linear layer, "
            "instead of 7x7 pooling and three",
            initialisation=f"{_FAN_OUT} (torchvision's own)",
            depth=19,
            stage_channels=(64, 128, 256, 512, 512),
            num_features=512,
        ),
    ),
    "mobilenet_32px": (
        _mobilenet,
        BackboneSpec(
            name="mobilenet_32px",
            source="pytorchcv",
            source_name="mobilenet_w1",
            style=None,
            stem="3x3/1 conv, its stride 2 made 1 (last map 2x2 at 32 px)",
            initialisation="depthwise convolutions He-normal over the fan-in, pointwise over the fan-out, the first "
            "torch's default, batch norm 1 and 0 (pytorchcv's own)",
            depth=28,
            stage_channels=(64, 128, 256, 512, 1024),
            num_features=1024,
        ),
    ),
    "mobilenetv2_32px": (
        _mobilenetv2,
        BackboneSpec(
            name="mobilenetv2_32px",
            source="torchvision",
            source_name="mobilenet_v2",
            style=None,
            stem="3x3/1 conv; stride 2 made 1 in it and in the first block of 24 channels (last map 4x4 at 32 px); "
            "no dropout before the classifier",
            initialisation=f"{_FAN_OUT} (torchvision's own)",
            depth=None,
            stage_channels=(16, 24, 32, 64, 96, 160, 320),
            num_features=1280,
        ),
    ),
    "regnetx_200mf_32px": (
        _regnetx_200mf,
        BackboneSpec(
            name="regnetx_200mf_32px",
            source="timm",
            source_name="regnetx_002",
            style=None,
            stem="3x3/1 conv; stride 2 made 1 in it and in stages 1 and 2 (last map 8x8 at 32 px)",
            initialisation=f"{_FAN_OUT}, also the last of a block (pycls's way; timm's default starts that one at 0)",
            depth=None,
            stage_channels=(24, 56, 152, 368),
            num_features=368,
        ),
    ),
}

SPECS = {name: spec for name, (_, spec) in _NETWORKS.items()}


def build(spec: BackboneSpec) -> nn.Module:
    """The network of one of :data:`SPECS` without its classifier."""
    return _NETWORKS[spec.name][0]()
