"""The probe: what a backbone computes for one fixed image, in a few numbers that a manifest can hold.

Names, shapes and values of the tensors do not say what is done with them. Two networks with identical tensors differ
in where a bottleneck strides, in batch norm's eps, in dilation, in the pooling of the stem; and one network sees
something else when channels are swapped or pixels are scaled differently. Each of these changes the features of a fixed
image, so the features are stored when a backbone is published and computed again where it is used.

Tolerance. The probe always runs on the CPU in plain fp32 (a module on another device is copied), without autocast and
without oneDNN's reduced precisions, so that TF32 and bf16 play no part. What is left is the order of summation, which
depends on threads, memory format, kernels and batch: measured relative differences of a signature are about 1e-6 up to
ResNet-152. The smallest mistake to catch, batch norm's eps 1e-3 for 1e-5, changes one normalisation by
5e-4 where the variance is 1 (random weights), and by more where it is smaller, as in trained networks; it adds up
over the layers. :data:`TOLERANCE` = 1e-4 lies between, on either side with room to spare.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sosr_det.errors import BackboneMismatchError
from sosr_det.registry.manifest import Preprocessing, Probe

INPUT = "sosr-probe-1"
TOLERANCE = 1e-4  # of a stage's root mean square
POOLED = "pooled"

_SIDE = 96  # pixels; three times the last stride of a ResNet, so that the last map still has a position to compare
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_GROUPS = 4
_SIGNIFICANT_DIGITS = 7  # what fp32 can tell


def probe_image(height: int = _SIDE, width: int = _SIDE) -> Tensor:
    """The fixed picture, uint8 RGB ``[3, height, width]``, from a formula: no file, no random numbers.

    Red is bright with slanted ramps, green of medium brightness with curved bands, blue dark with a fine pattern; it
    has no symmetry, so that a flip, a transposition or a swap of channels is another picture.
    """
    y = torch.arange(height, dtype=torch.int64).view(-1, 1)
    x = torch.arange(width, dtype=torch.int64).view(1, -1)
    red = 130 + (5 * x + 3 * y) % 126
    green = 60 + (x * x // 11 + 7 * y) % 120
    blue = (13 * x * y // 5 + 29 * (x // 4) + 3 * y) % 80
    return torch.stack([red, green, blue]).to(torch.uint8)


def compute_probe(backbone: nn.Module, preprocessing: Preprocessing) -> Probe:
    """Features of the fixed image, prepared as ``preprocessing`` says, in the network's own eval mode.

    A network with modules ``layer1`` … ``layer4`` (the ResNets of torchvision, timm and MMDetection) is probed after
    each of them, at 96 px. Any other is probed at its pooled output, at ``preprocessing.input_size``.

    The backbone is left as it was: modes, statistics, gradients and the state of every random generator.

    Args:
        backbone: maps ``[1, C, H, W]`` to features; on any device, in any floating-point type.
        preprocessing: what the backbone was trained with.

    Raises:
        BackboneMismatchError: features that are not finite, or a backbone that does not take the image.
    """
    name = INPUT
    size = (_SIDE, _SIDE)
    if not _stage_modules(backbone):
        size = preprocessing.input_size
        name = f"{INPUT}:{size[0]}x{size[1]}"
    stages = _signatures(backbone, _prepared(probe_image(*size), preprocessing))
    return Probe(name, {stage: tuple(map(_rounded, values)) for stage, values in stages.items()})


def probe_live(
    model: nn.Module,
    probe: Probe,
    backbone: nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
) -> dict[str, tuple[float, ...]]:
    """Compute a stored probe again in a built model, through the model's own ``data_preprocessor``.

    The image goes in as the model's data pipeline would give it: BGR uint8 for MMDetection's loaders, RGB for this
    project's classifiers. Mean, std and channel order are those of the live preprocessor.

    Args:
        model: a detector or classifier with a ``data_preprocessor``.
        probe: what is to be compared with; names the image.
        backbone: default ``model.backbone``.
        preprocessing: instead of the model's own, where that does not normalise (a step of the data pipeline does).

    Returns:
        Signatures by stage, as in ``probe.stages``. The model is left as it was.

    Raises:
        BackboneMismatchError: an image of another sosr-det, or a model that does not take it.
    """
    backbone = model.backbone if backbone is None else backbone
    image = probe_image(*_image_size(probe))
    if preprocessing is not None:
        prepared = _prepared(image, preprocessing)
    else:
        prepared = _prepared_live(image, getattr(model, "data_preprocessor", None))
    stages = _signatures(backbone, prepared, pooled=POOLED in probe.stages)
    return {stage: tuple(values) for stage, values in stages.items()}


def compare_probe(
    live: Mapping[str, Sequence[float]], probe: Probe, tolerance: float = TOLERANCE
) -> dict[str, str]:
    """Where a live network computes something else than the stored probe.

    Args:
        live: what :func:`probe_live` returned.
        probe: the manifest's.
        tolerance: largest difference, as a fraction of the stage's root mean square.

    Returns:
        Stage -> what differs, shallow to deep; empty when all agree.
    """
    differences = {}
    for stage in sorted(probe.stages):
        stored, ours = probe.stages[stage], live.get(stage)
        if ours is None:
            differences[stage] = "the live network has no such stage"
            continue
        dimensions = 3 if stage != POOLED else 1
        if tuple(ours[:dimensions]) != tuple(stored[:dimensions]) or len(ours) != len(stored):
            differences[stage] = (
                f"the map is {_size_text(ours[:dimensions])}, the entry's {_size_text(stored[:dimensions])}"
            )
            continue
        scale = max(stored[dimensions], 1e-12)
        parts = [abs(a - b) / scale for a, b in zip(ours[dimensions:], stored[dimensions:], strict=True)]
        if not all(part <= tolerance for part in parts):  # so that NaN is a difference
            differences[stage] = (
                f"the features differ by {max(parts):.2g} of their size (at most {tolerance:g} is rounding)"
            )
    return differences


def _prepared(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    pixels = image.to(torch.float64)
    if preprocessing.scale == "0-1":
        pixels = pixels / 255
    if preprocessing.channel_order == "bgr":
        pixels = pixels.flip(0)
    if len(preprocessing.mean) == 1:
        pixels = pixels.mean(dim=0, keepdim=True)
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(-1, 1, 1)
    return ((pixels - mean) / std).to(torch.float32).unsqueeze(0)


def _prepared_live(image: Tensor, preprocessor: Any) -> Tensor:
    preprocessor = getattr(preprocessor, "data_preprocessor", preprocessor)  # of a semi-supervised model
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        raise BackboneMismatchError(
            "the probe cannot be computed: the model's data_preprocessor does not normalise. Give it the "
            "backbone's mean, std and bgr_to_rgb."
        )
    order = getattr(preprocessor, "channel_order", None)  # ours; its loaders give RGB, and it keeps the order
    if order is None:
        order = "rgb" if getattr(preprocessor, "_channel_conversion", False) else "bgr"
    pixels = image if order == "rgb" else image.flip(0)
    mean, std = (value.detach().cpu().double().reshape(-1, 1, 1) for value in (mean, std))
    return ((pixels.double() - mean) / std).to(torch.float32).unsqueeze(0)


def _signatures(backbone: nn.Module, image: Tensor, pooled: bool | None = None) -> dict[str, list[float]]:
    """Signature of every stage, or of the pooled output, computed on the CPU in fp32."""
    network = _on_cpu_in_fp32(backbone)
    stages = {} if pooled else _stage_modules(network)
    found: dict[str, list[float]] = {}

    def keep(stage: str):
        return lambda module, inputs, output: found.__setitem__(stage, _signature(output))

    handles = [module.register_forward_hook(keep(stage)) for stage, module in stages.items()]
    try:
        with _quiet(network):
            output = network(image)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneMismatchError(
            f"the probe cannot be computed: the backbone does not take an image of {list(image.shape)}: {text}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not stages:
        found[POOLED] = _signature(output)
    for stage, values in found.items():
        if not all(map(math.isfinite, values)):
            raise BackboneMismatchError(
                f"the backbone's features are not finite for the probe image, after {stage}."
            )
    return found


def _signature(output: Any) -> list[float]:
    """Size, root mean square, and means over halves of the map and over groups of channels."""
    if isinstance(output, (tuple, list)):
        output = output[-1]
    features = output.detach()[0].double()
    root_mean_square = features.square().mean().sqrt().item()
    groups = [features[start::_GROUPS].mean().item() for start in range(min(_GROUPS, len(features)))]
    if features.dim() != 3:
        return [features.numel(), root_mean_square, *groups]
    height, width = features.shape[1:]
    top, left = (height + 1) // 2, (width + 1) // 2
    halves = [
        features[:, :top],
        features[:, height - top :],
        features[:, :, :left],
        features[:, :, width - left :],
    ]
    return [*map(float, features.shape), root_mean_square, *(half.mean().item() for half in halves), *groups]


def _stage_modules(backbone: nn.Module) -> dict[str, nn.Module]:
    """``layer1`` … of a ResNet; empty for other networks."""
    found = {stage: getattr(backbone, stage, None) for stage in _STAGES}
    found = {stage: module for stage, module in found.items() if isinstance(module, nn.Module)}
    return found if "layer1" in found and "layer2" in found else {}


def _on_cpu_in_fp32(backbone: nn.Module) -> nn.Module:
    """The backbone itself where it is on the CPU in fp32 already, else a copy."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    plain = all(
        tensor.device.type == "cpu" and (not tensor.is_floating_point() or tensor.dtype == torch.float32)
        for tensor in tensors
    )
    return backbone if plain else copy.deepcopy(backbone).to(device="cpu", dtype=torch.float32)


@contextmanager
def _quiet(network: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no autocast, plain fp32 kernels; all flags as before afterwards.

    The flags are set one by one: ``train()`` of MMDetection's backbones does more than set them.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), torch.autocast("cpu", enabled=False), _full_precision():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _full_precision() -> Iterator[None]:
    """oneDNN multiplies in bf16 or TF32 where a user has allowed it for speed (torch >= 2.9 has the settings)."""
    kernels = [getattr(torch.backends.mkldnn, name, None) for name in ("conv", "matmul")]
    kernels = [kernel for kernel in kernels if hasattr(kernel, "fp32_precision")]
    before = [kernel.fp32_precision for kernel in kernels]
    try:
        for kernel in kernels:
            kernel.fp32_precision = "ieee"
        yield
    finally:
        for kernel, precision in zip(kernels, before, strict=True):
            kernel.fp32_precision = precision


def _image_size(probe: Probe) -> tuple[int, int]:
    name, _, size = probe.input.partition(":")
    height, _, width = size.partition("x")
    if name != INPUT or (size and not (height.isdigit() and width.isdigit())):
        raise BackboneMismatchError(
            f"the entry's probe was made with the image {probe.input!r}, which this sosr-det does not know. "
            "Upgrade sosr-det."
        )
    return (int(height), int(width)) if size else (_SIDE, _SIDE)


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _size_text(values: Sequence[float]) -> str:
    return "x".join(str(int(value)) for value in values)
