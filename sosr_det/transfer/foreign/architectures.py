"""Which network the tensors belong to, from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sosr_det.errors import CheckpointError
from sosr_det.models import BackboneSpec, build_backbone
from sosr_det.models.imagenet_resnets import SPECS, has_bottlenecks

# (kind of block, blocks per stage, groups, width of a group in the first stage) -> name
_SIGNATURES = {
    ("basic", (2, 2, 2, 2), 1, 64): "resnet18",
    ("basic", (3, 4, 6, 3), 1, 64): "resnet34",
    ("bottleneck", (3, 4, 6, 3), 1, 64): "resnet50",
    ("bottleneck", (3, 4, 23, 3), 1, 64): "resnet101",
    ("bottleneck", (3, 8, 36, 3), 1, 64): "resnet152",
    ("bottleneck", (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    ("bottleneck", (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
    ("bottleneck", (3, 4, 23, 3), 64, 4): "resnext101_64x4d",
    ("bottleneck", (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    ("bottleneck", (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
}
_BLOCK = re.compile(r"layer([1-4])\.(\d{1,4})\.conv1\.weight")

# A ResNet in torchvision's, timm's and OpenMMLab's naming has these two tensors.
STEM, FIRST_BLOCK = "conv1.weight", "layer1.0.conv1.weight"


@dataclass(frozen=True)
class Network:
    """A built backbone with what is known about it; ``network``'s weights are random until loaded."""

    network: nn.Module
    spec: BackboneSpec

    @property
    def needs_style(self) -> bool:
        """Whether there is a choice of where a bottleneck strides, which tensors cannot show."""
        return self.spec.name in SPECS and has_bottlenecks(self.network)


def recognise_resnet(tensors: Mapping[str, Tensor]) -> str:
    """The name of a ResNet of torchvision's family from its tensors, names without prefix.

    Variants that differ in nothing but layers without parameters (timm's ``resnetaa50``, ``resnetblur50``) look the
    same: a caller says that it took the plain one.

    Raises:
        CheckpointError: another network; the message says what was found.
    """
    counts: dict[int, set[int]] = {stage: set() for stage in range(1, 5)}
    for name in tensors:
        if found := _BLOCK.fullmatch(name):
            counts[int(found[1])].add(int(found[2]))
    blocks = tuple(len(counts[stage]) for stage in range(1, 5))
    kind = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    middle = tensors.get("layer1.0.conv2.weight")
    if middle is None or middle.dim() != 4 or not middle.shape[1]:
        raise CheckpointError(
            "the first block of the ResNet has no usable conv2.weight; the file is incomplete."
        )
    groups = 1 if kind == "basic" else middle.shape[0] // middle.shape[1]
    name = _SIGNATURES.get((kind, blocks, groups, middle.shape[1]))
    if name is None:
        raise CheckpointError(
            f"the tensors are those of a ResNet with {kind} blocks, {list(blocks)} per stage, {groups} groups of width "
            f"{middle.shape[1]}, which is none of {', '.join(SPECS)}. If timm has it, name it with --arch timm/NAME."
        )
    return name


def build(arch: str) -> Network:
    """Build a backbone by name; the global random generator is left as it was.

    Raises:
        ConfigError: unknown name; near ones are listed.
    """
    with unchanged_random_state():
        network, spec = build_backbone(arch)
    return Network(network.eval(), spec)


def canonical_timm_name(model_name: str) -> str:
    """``timm/NAME``, or torchvision's name where that network has the same tensors and computes the same.

    MMDetection holds torchvision's ResNets under other names than timm. Equal tensors are not enough to call two
    networks the same (``resnetaa50`` pools where ``resnet50`` strides), so their outputs are compared.

    Raises:
        ConfigError: timm has no such model.
    """
    theirs = build(f"timm/{model_name}")
    state = theirs.network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if STEM not in shapes or FIRST_BLOCK not in shapes:
        return theirs.spec.name
    try:
        ours = build(recognise_resnet(state))
    except CheckpointError:
        return theirs.spec.name
    if {name: tuple(tensor.shape) for name, tensor in ours.network.state_dict().items()} != shapes:
        return theirs.spec.name
    generator = torch.Generator().manual_seed(0)
    for name, parameter in theirs.network.named_parameters():
        if name.endswith(("bn2.weight", "bn3.weight")):
            nn.init.ones_(parameter)  # timm starts some at 0, which would hide what a block does
    ours.network.load_state_dict(theirs.network.state_dict())
    images = torch.randn(1, 3, 96, 96, generator=generator)
    with torch.no_grad():
        a, b = ours.network(images), theirs.network(images)
    same = (a - b).abs().max() <= 1e-4 * b.abs().max()
    return ours.spec.name if same else theirs.spec.name


@contextmanager
def unchanged_random_state():
    """Building a network draws random weights; a caller's own random numbers must not depend on that."""
    with torch.random.fork_rng(devices=[]):
        yield
