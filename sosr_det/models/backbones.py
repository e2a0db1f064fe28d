"""The one place where a backbone is built by name."""

from __future__ import annotations

import difflib

from torch import nn

from sosr_det.errors import ConfigError
from sosr_det.models import cifar_networks, imagenet_resnets, small_images, timm_networks
from sosr_det.models.backbone_spec import BackboneSpec

_ROOMS = {
    name: (room, spec)
    for room in (imagenet_resnets, cifar_networks, small_images)
    for name, spec in room.SPECS.items()
}


def available_backbones() -> list[str]:
    """Names that :func:`build_backbone` knows, besides ``timm/NAME`` for every timm model. Imports no library."""
    return list(_ROOMS)


def build_backbone(name: str) -> tuple[nn.Module, BackboneSpec]:
    """Build a randomly initialised backbone without its classifier; no weights are ever downloaded.

    The module maps images ``[M, 3, H, W]`` to pooled features ``[M, num_features]``. Its state dict has the source
    library's parameter names, so that tensors transfer one to one; those of torchvision's ResNets are also
    MMDetection's (its ``ResNeXt`` holds the ``resnext…``). The weights are those that the source library draws
    (``spec.initialisation``).

    - ``resnet18``, ``34``, ``50``, ``101``, ``152``, ``resnext50_32x4d``, ``resnext101_32x8d``, ``resnext101_64x4d``,
      ``wide_resnet50_2``, ``wide_resnet101_2``: torchvision, for 224 px.
    - ``resnet20``, ``56``, ``110``, ``seresnet110``, ``densenet100_k12_bc``, ``wrn28_10``, ``pyramidnet110_a48``,
      ``pyramidnet110_a84``: the published CIFAR networks (pytorchcv), for 32 px; 64 px works as well.
    - ``vgg19_bn_32px``, ``mobilenet_32px``, ``mobilenetv2_32px``, ``regnetx_200mf_32px``: published ImageNet networks
      with fewer strides; ``spec.stem`` says which.
    - ``timm/NAME``: any timm model.

    Raises:
        ConfigError: unknown name; the message lists near ones.
    """
    if isinstance(name, str) and name.startswith(timm_networks.PREFIX):
        network, spec = timm_networks.build(name)
    elif isinstance(name, str) and name in _ROOMS:
        room, spec = _ROOMS[name]
        network = room.build(spec)
    else:
        raise _unknown(str(name))
    # mmengine calls `init_weights` of the modules in a model, which timm's models have too: they would be drawn twice,
    # and the second time not as their constructor was told.
    network.is_init = True
    return network, spec


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, _ROOMS, n=3)
    near = timm_networks.near_names(name) + near or available_backbones()
    return ConfigError(
        f"unknown backbone {name!r}; did you mean one of: {', '.join(near)}? Every timm model works as timm/NAME."
    )
