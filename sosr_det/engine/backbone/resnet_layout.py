"""Which tensors an MMDetection ResNet will have, from its settings alone: MMDetection is not imported (8 s)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.errors import ConfigError

KNOWN_TYPES = ("ResNet", "ResNeXt", "ResNetV1d")

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NORM_NAMES = {"BN": "bn", "SyncBN": "bn", "MMSyncBN": "bn", "GN": "gn", "LN": "ln", "IN": "in"}
BATCH_NORMS = tuple(kind for kind, name in _NORM_NAMES.items() if name == "bn")
_PLUGIN_NAMES = {
    "ContextBlock": "context_block",
    "GeneralizedAttention": "gen_attention_block",
    "NonLocal2d": "nonlocal_block",
    "ConvModule": "conv_block",
}
_WITHOUT_TENSORS = ("DropBlock",)
_OFFSETS = {
    "DCN": 18,
    "DCNv2": 27,
}  # channels of conv_offset per deformable group: 2 (or 3 with a mask) x 3 x 3


@dataclass
class ResNetLayout:
    """The tensors of a ResNet.

    Attributes:
        shapes: name -> shape; None where only the module's class would know it.
        added: patterns of tensors that deformable convolutions and plugins add, with what adds them.
        channels: output channels of the stages, shallow to deep.
    """

    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    channels: list[int] = field(default_factory=list)


def resnet_layout(settings: Mapping[str, Any], type_name: str = "ResNet") -> ResNetLayout:
    """The layout of ``model.backbone`` for the types in :data:`KNOWN_TYPES`.

    Args:
        settings: as in a config: ``depth``, ``num_stages``, ``deep_stem``, ``avg_down``, ``norm_cfg``, ``dcn``,
            ``plugins``, ``groups``, ``base_width``, …

    Raises:
        ConfigError: no depth, or one that no ResNet has.
    """
    depth = settings.get("depth")
    if depth not in _BLOCKS:
        raise ConfigError(
            f"the backbone's depth is {depth!r}; a {type_name} has {', '.join(map(str, _BLOCKS))}."
        )
    deep = type_name == "ResNetV1d"
    builder = _Builder(settings, bottleneck=depth >= 50)
    builder.stem(bool(settings.get("deep_stem", deep)))
    for stage, blocks in enumerate(_BLOCKS[depth][: settings.get("num_stages", 4)]):
        builder.stage(stage, blocks, bool(settings.get("avg_down", deep)))
    return builder.layout


def norm_type(settings: Mapping[str, Any]) -> str:
    """The kind of normalisation: "BN", "GN", …"""
    return bare_type((settings.get("norm_cfg") or {}).get("type", "BN"))


class _Builder:
    def __init__(self, settings: Mapping[str, Any], bottleneck: bool) -> None:
        self.settings = settings
        self.bottleneck = bottleneck
        self.expansion = 4 if bottleneck else 1
        self.base = settings.get("base_channels", 64)
        self.width = settings.get("stem_channels") or self.base  # channels at the present point
        self.norm_name = _NORM_NAMES.get(norm_type(settings), "bn")
        self.layout = ResNetLayout()

    def stem(self, deep: bool) -> None:
        channels, half = self.settings.get("in_channels", 3), self.width // 2
        if not deep:
            self._conv("conv1", self.width, channels, 7)
            self._norm(f"{self.norm_name}1", self.width)
            return
        for index, (out, inp) in enumerate(((half, channels), (half, half), (self.width, half))):
            self._conv(f"stem.{3 * index}", out, inp, 3)
            self._norm(f"stem.{3 * index + 1}", out)

    def stage(self, stage: int, blocks: int, avg_down: bool) -> None:
        planes = self.base * 2**stage
        out = planes * self.expansion
        stride = self.settings.get("strides", (1, 2, 2, 2))[stage]
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}."
            if self.bottleneck:
                self._bottleneck(prefix, planes, out, stage)
            else:
                self._conv(f"{prefix}conv1", planes, self.width, 3)
                self._norm(f"{prefix}{self.norm_name}1", planes)
                self._conv(f"{prefix}conv2", planes, planes, 3)
                self._norm(f"{prefix}{self.norm_name}2", planes)
            if block == 0 and (stride != 1 or self.width != out):
                first = int(avg_down)  # the average pool takes index 0
                self._conv(f"{prefix}downsample.{first}", out, self.width, 1)
                self._norm(f"{prefix}downsample.{first + 1}", out)
            self.width = out
        self.layout.channels.append(out)

    def _bottleneck(self, prefix: str, planes: int, out: int, stage: int) -> None:
        groups = self.settings.get("groups", 1)
        inner = planes
        if groups != 1:
            inner = int(planes * self.settings.get("base_width", 4) / self.base) * groups
        for number, shape in (
            (1, (inner, self.width, 1)),
            (2, (inner, inner // groups, 3)),
            (3, (out, inner, 1)),
        ):
            self._conv(f"{prefix}conv{number}", *shape)
            self._norm(f"{prefix}{self.norm_name}{number}", shape[0])
        self._deformable(prefix, inner, stage)
        self._plugins(prefix, stage)

    def _deformable(self, prefix: str, inner: int, stage: int) -> None:
        dcn = self.settings.get("dcn")
        chosen = self.settings.get("stage_with_dcn", (False,) * 4)
        if not dcn or not chosen[stage] or dcn.get("fallback_on_stride"):
            return
        kind = bare_type(dcn.get("type"))
        channels = _OFFSETS.get(kind)
        offsets = None if channels is None else channels * dcn.get("deform_groups", 1)
        self.layout.shapes[f"{prefix}conv2.conv_offset.weight"] = offsets and (offsets, inner, 3, 3)
        self.layout.shapes[f"{prefix}conv2.conv_offset.bias"] = offsets and (offsets,)
        self.layout.added["layer*.conv2.conv_offset.*"] = f"dcn={kind}"

    def _plugins(self, prefix: str, stage: int) -> None:
        for plugin in self.settings.get("plugins") or ():
            stages = plugin.get("stages")
            if stages is not None and not stages[stage]:
                continue
            cfg = plugin.get("cfg", {})
            kind = bare_type(cfg.get("type"))
            if kind in _WITHOUT_TENSORS:
                continue
            name = _PLUGIN_NAMES.get(kind, _snake_case(kind)) + str(cfg.get("postfix", ""))
            self.layout.shapes[f"{prefix}{name}.*"] = None
            self.layout.added[f"layer*.{name}.*"] = f"plugin {kind}"

    def _conv(self, name: str, out: int, inp: int, kernel: int) -> None:
        self.layout.shapes[f"{name}.weight"] = (out, inp, kernel, kernel)

    def _norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias"):
            self.layout.shapes[f"{name}.{part}"] = (channels,)
        if self.norm_name == "bn":
            for part in ("running_mean", "running_var"):
                self.layout.shapes[f"{name}.{part}"] = (channels,)
            self.layout.shapes[f"{name}.num_batches_tracked"] = ()


def _snake_case(name: str) -> str:
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
