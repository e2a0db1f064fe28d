"""A backbone as an ONNX graph, checked against the network that it was made from."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sosr_det.errors import CheckpointError, InstallationError
from sosr_det.models.imagenet_resnets import SPECS, set_style
from sosr_det.registry.manifest import Manifest, Preprocessing

OPSET = 17
TOLERANCE = 1e-3  # of the largest feature, in any output
_STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class OnnxCheck:
    """How far onnxruntime's outputs were from torch's: largest absolute difference, and as a part of the largest value.

    ``runtime`` is onnxruntime's version, None where it is not installed and nothing was checked.
    """

    runtime: str | None
    max_abs_difference: float | None
    max_rel_difference: float | None


class _Exported(nn.Module):
    """The network with the outputs that the graph has: a ResNet's four maps, and the pooled features."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing | None, maps: bool) -> None:
        super().__init__()
        self.network, self.maps = network, maps
        self.flip = preprocessing is not None and preprocessing.channel_order == "bgr"
        self.divisor = 255.0 if preprocessing is not None and preprocessing.scale == "0-1" else 1.0
        if preprocessing is not None:
            self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor):
        if self.flip:
            images = images[:, [2, 1, 0]]
        if hasattr(self, "mean"):
            images = (images / self.divisor - self.mean) / self.std
        if not self.maps:
            return self.network(images)
        net = self.network
        maps = [net.maxpool(net.relu(net.bn1(net.conv1(images))))]
        for stage in _STAGES:
            maps.append(getattr(net, stage)(maps[-1]))
        return (*maps[1:], torch.flatten(net.avgpool(maps[-1]), 1))


def write_onnx(
    path: Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    texts: Mapping[str, str],
    include_preprocessing: bool = False,
) -> dict[str, Any]:
    """Write the graph of a backbone, with its weights, to ``path``.

    Input ``images``: float32 ``[N, 3, H, W]``, normalised as the manifest says, in its channel order; with
    ``include_preprocessing`` RGB pixels from 0 to 255, and the graph normalises. N is free, for ResNets H and W too.
    Outputs: for ResNets the maps ``layer1`` to ``layer4`` (strides 4 to 32); ``features`` ``[N, F]``, pooled, for all.

    The exporter is torch's TorchScript-based one, which needs nothing but ``onnx``.

    Returns:
        ``opset``, ``input``, ``outputs``, ``check`` (an :class:`OnnxCheck`).

    Raises:
        InstallationError: ``onnx`` is not installed.
        CheckpointError: the network cannot be exported, or onnxruntime's outputs differ by more than 1e-3 of the
            largest.
    """
    if importlib.util.find_spec("onnx") is None:
        raise InstallationError(
            "writing ONNX needs the package onnx. Run: tools/setup.sh onnx (or pip install -e '.[onnx]') in the "
            "checkout of sosr-det."
        )
    maps = manifest.arch.name in SPECS
    network = _network(manifest, tensors)
    exported = _Exported(network, manifest.preprocessing if include_preprocessing else None, maps).eval()
    height, width = (96, 128) if maps else manifest.preprocessing.input_size
    names = [*(_STAGES if maps else ()), "features"]
    axes: dict[str, dict[int, str]] = {name: {0: "N"} for name in ("images", *names)}
    for name in ("images", *_STAGES) if maps else ():
        axes[name] |= {
            2: "H" if name == "images" else f"H_{name}",
            3: "W" if name == "images" else f"W_{name}",
        }
    images = _images(2, height, width, include_preprocessing)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the newer exporter needs the package onnxscript
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            torch.onnx.export(
                exported,
                (images,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_axes=axes,
            )
    except Exception as error:  # whatever an operator without ONNX counterpart raises
        text = (str(error).strip().splitlines() or ["no message"])[0]
        raise CheckpointError(
            f"{manifest.arch.name} cannot be exported to ONNX: {type(error).__name__}: {text}"
        ) from error
    _describe_in_file(path, texts, include_preprocessing, manifest)
    check = _check(path, exported, names, (height, width), maps, include_preprocessing)
    order = (
        "RGB pixels from 0 to 255"
        if include_preprocessing
        else f"normalised {manifest.preprocessing.channel_order}"
    )
    return {
        "opset": OPSET,
        "input": f"images float32 [N, 3, H, W], {order}",
        "outputs": names,
        "check": check,
    }


def _network(manifest: Manifest, tensors: Mapping[str, Tensor]) -> nn.Module:
    from sosr_det.models import build_backbone

    with torch.random.fork_rng(devices=[]):
        network, spec = build_backbone(manifest.arch.name)
    if spec.name in SPECS and manifest.arch.style is not None:
        set_style(network, manifest.arch.style)
    network.load_state_dict(dict(tensors), strict=True)
    return network.eval()


def _images(count: int, height: int, width: int, pixels: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if pixels:
        return torch.randint(0, 256, (count, 3, height, width), generator=generator).float()
    return torch.randn(count, 3, height, width, generator=generator)


def _describe_in_file(
    path: Path, texts: Mapping[str, str], include_preprocessing: bool, manifest: Manifest
) -> None:
    import onnx

    graph = onnx.load(str(path))
    said = dict(texts) | {
        "input": "RGB pixels 0-255"
        if include_preprocessing
        else f"normalised {manifest.preprocessing.channel_order}"
    }
    onnx.helper.set_model_props(graph, said)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _check(
    path: Path, exported: nn.Module, names: list[str], size: tuple[int, int], maps: bool, pixels: bool
) -> OnnxCheck:
    """Compare with torch at another batch size than the exported one, for ResNets also at another image size."""
    if importlib.util.find_spec("onnxruntime") is None:
        return OnnxCheck(None, None, None)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst_abs = worst_rel = 0.0
    for count, height, width in ((3, *size), (1, 64, 96) if maps else (1, *size)):
        images = _images(count, height, width, pixels)
        with torch.no_grad():
            expected = exported(images)
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = session.run(names, {"images": images.numpy()})
        for name, ours, theirs in zip(names, expected, found, strict=True):
            difference = float((ours - torch.from_numpy(theirs)).abs().max())
            relative = difference / max(float(ours.abs().max()), 1e-12)
            if not relative <= TOLERANCE:  # NaN too
                raise CheckpointError(
                    f"onnxruntime {onnxruntime.__version__} computes something else than torch: output {name} differs "
                    f"by {difference:.3g} ({relative:.2g} of its largest value, at most {TOLERANCE:g} is rounding). "
                    "The file was not kept."
                )
            worst_abs, worst_rel = max(worst_abs, difference), max(worst_rel, relative)
    return OnnxCheck(onnxruntime.__version__, worst_abs, worst_rel)
