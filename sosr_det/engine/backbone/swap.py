"""Another backbone under any MMDetection config: all that has to change with it, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.advice import advice
from sosr_det.engine.backbone.places import Backbone, find_backbones, holders, other_backbones, shared_stages
from sosr_det.engine.backbone.preprocessing import set_preprocessing
from sosr_det.engine.backbone.resnet_layout import (
    BATCH_NORMS,
    KNOWN_TYPES,
    ResNetLayout,
    norm_type,
    resnet_layout,
)
from sosr_det.engine.backbone.uri import WeightsSource, look_up
from sosr_det.engine.configs import bare_type
from sosr_det.errors import BackboneMismatchError, ConfigError
from sosr_det.transfer.contract import Allowance, TransferReport, check_arch, compare_layout

EPS = 1e-5  # of batch norm in every ResNet of torchvision and timm


@dataclass
class SwapReport:
    """What a swap did to a config.

    Attributes:
        uri: as resolved, ``sosr://NAME@TAG``, or as given.
        checkpoint: what stands in the config now; an entry's pinned URI.
        digest: of the entry, None for other sources.
        kind: "entry", "torchvision", "file" or "url".
        backbones: places of the backbones that were swapped, ``model.detector.backbone``.
        left: places of networks that were left alone (a teacher's, a re-identification network's).
        changes: lines, one per setting that changed besides the checkpoint.
        warnings: lines about settings that deserve a look; nothing was changed for them.
        allowed: the names of ``allow`` that were needed.
        load: counts per backbone place: matched, missing, unexpected, …; absent where they are known only at start-up.
    """

    uri: str
    checkpoint: str
    digest: str | None
    kind: str
    backbones: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    load: dict[str, dict[str, int]] = field(default_factory=dict)
    load_text: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class _Problems:
    """What stands against a swap, with the name that would allow it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: list[str] = []

    def add(self, line: str, *names: str) -> None:
        self.lines.append(line)
        self.names += [name for name in names if name not in self.names]

    def raise_if_any(self, uri: str) -> None:
        if not self.lines:
            return
        text = "\n".join(f"  {line}" for line in self.lines)
        hint = ""
        if self.names:
            flags = " ".join(f"--allow '{name}'" for name in self.names)
            hint = f"\nIf that is what you want, allow it by name: {flags}"
        error = BackboneMismatchError(f"{uri} does not fit this config's backbone:\n{text}{hint}")
        error.allow = tuple(self.names)  # for programs
        raise error


def swap_backbone(
    cfg: Any,
    uri: str,
    allow: Iterable[str] = (),
    *,
    registry_root: str | Path | None = None,
    set_depth: bool = False,
) -> SwapReport:
    """Put the weights of ``uri`` under every backbone of a config's detector, with all that goes with them.

    Sets ``init_cfg``; the stride ``style`` of bottlenecks, and mean, std and channel order of the data preprocessor, to
    what the weights were trained with; removes checkpoints of the whole model, which would be loaded over it.

    Args:
        cfg: ``mmengine.config.Config`` of a detector, or of a classifier of ours; changed in place. Where something
            is refused, the config is to be thrown away.
        uri: ``sosr://NAME[@TAG]``, ``sosr://sha256:HEX``, ``torchvision://NAME``, a weights file, or a URL.
        allow: exceptions by name, see :class:`sosr_det.transfer.contract.Allowance`.
        registry_root: default ``$SOSR_REGISTRY``, else ``./registry``.
        set_depth: also change the backbone's depth, and the neck's input channels with it.

    Raises:
        ConfigError: no backbone, one that is no ResNet, another depth or architecture, channels that the neck does
            not take, images that are normalised in the data pipeline with other numbers.
        BackboneMismatchError: tensors that would be missing, left over or of another shape, or a network that computes
            something else with the same tensors. ``error.allow`` holds the names that would allow it.
        RegistryError: unknown or damaged entry.
    """
    model = cfg.get("model")
    backbones = list(find_backbones(model)) if model else []
    if not backbones:
        raise ConfigError("the config's model has no `backbone`, so there is nothing to swap.")
    source = look_up(uri, registry_root)
    allowance = Allowance(allow)
    report = SwapReport(
        source.uri,
        source.checkpoint,
        source.digest,
        source.kind,
        [backbone.place for backbone in backbones],
        other_backbones(model),
    )
    problems = _Problems()
    for backbone in backbones:
        _swap_one(model, backbone, source, report, allowance, problems, set_depth)
    _swap_shared_stages(model, source, report)
    _drop_whole_models(cfg, model, backbones, report)
    set_preprocessing(cfg, source, report.changes, allowance)
    problems.raise_if_any(source.uri)
    report.warnings += advice(cfg, backbones, report.left, source)
    report.warnings += [
        f"--allow {name!r} was not needed" for name in allowance.unused if not _at_start(name)
    ]
    report.allowed = list(allowance.used) + [name for name in allowance.unused if _at_start(name)]
    return report


def _at_start(name: str) -> bool:
    """Whether an allowed name can be needed at start-up though the config did not need it."""
    return name.startswith("probe")


def _swap_one(
    model: Any,
    backbone: Backbone,
    source: WeightsSource,
    report: SwapReport,
    allowance: Allowance,
    problems: _Problems,
    set_depth: bool,
) -> None:
    settings, place = backbone.settings, backbone.place
    _set(
        report,
        settings,
        f"{place}.init_cfg",
        {"type": "Pretrained", "checkpoint": source.checkpoint},
        quiet=True,
    )
    if settings.get("pretrained"):
        _set(report, settings, f"{place}.pretrained", None)
    if backbone.is_ours:
        if source.arch is not None:
            check_arch(settings, source.arch, source.uri, allowance)
        return
    _require_resnet(backbone, source)
    _require_resnet_weights(backbone, source)
    if set_depth:
        _set_depth(model, backbone, source, report)
    if source.depth is not None and settings.get("depth") != source.depth:
        raise ConfigError(_other_depth(backbone, source))
    groups = settings.get("groups", 1)
    if source.depth is not None and groups != 1:
        raise ConfigError(
            f"{backbone.place} is a {backbone.type_name}-{settings['depth']} with groups={groups}, "
            f"base_width={settings.get('base_width', 4)}; {source.uri} holds a plain resnet{source.depth}, whose "
            "convolutions have other shapes. Use a config of this detector with a ResNet backbone, or weights of "
            "the same network."
        )
    norm = settings.get("norm_cfg") or {}
    kind = norm_type(settings)
    if source.depth is not None and kind not in BATCH_NORMS:
        raise ConfigError(
            f"{place}.norm_cfg is {kind}, and {source.uri} is a resnet{source.depth} with batch norm. Set "
            f"{place}.norm_cfg=dict(type='BN', requires_grad=True), or use a config of this detector with BN."
        )
    if source.depth is not None and norm.get("eps", EPS) != EPS:
        _set(report, norm, f"{place}.norm_cfg.eps", EPS)  # it belongs to the weights, as the style does
    arch = source.arch
    style = arch.style if arch is not None and settings.get("depth", 0) >= 50 else None
    if style and settings.get("style", "pytorch") != style and not allowance.word("style"):
        _set(report, settings, f"{place}.style", style)
    if arch is not None:
        check_arch(settings, arch, source.uri, allowance)
    layout = resnet_layout(settings, backbone.type_name)
    _check_tensors(model, backbone, layout, source, report, allowance, problems)
    _check_computation(backbone, allowance, problems)
    _check_neck(model, backbone, layout)


def _require_resnet(backbone: Backbone, source: WeightsSource) -> None:
    if backbone.type_name in KNOWN_TYPES:
        return
    what = f"a {source.arch.name}" if source.arch else "weights"
    near = " (it has layers that a ResNet lacks, or computes something else with the same tensors)"
    raise ConfigError(
        f"{backbone.place} is a {backbone.type_name}, and {source.uri} holds {what}: "
        f"only {', '.join(KNOWN_TYPES)} take a ResNet's tensors{near if 'Res' in backbone.type_name else ''}. "
        "Use a config of this detector with a ResNet backbone (…_r50_…)."
    )


def _require_resnet_weights(backbone: Backbone, source: WeightsSource) -> None:
    """Every ResNet has a ``layer1``: without one, the weights are another kind of network's, whatever it is called."""
    if source.arch is None or source.shapes is None or any(n.startswith("layer1.") for n in source.shapes):
        return
    raise ConfigError(
        f"{source.uri} holds a {source.arch.name}, and {backbone.place} is a {backbone.type_name}-"
        f"{backbone.settings.get('depth')}: none of its tensors has a place there. Use an entry of a ResNet of that "
        "depth (`sosr-det registry ls`), or a config of this detector with that network."
    )


def _other_depth(backbone: Backbone, source: WeightsSource) -> str:
    channels = _chosen(source.arch.feature_channels, backbone.settings) if source.arch else None
    return (
        f"{source.uri} holds a resnet{source.depth}, but {backbone.place} has depth "
        f"{backbone.settings.get('depth')}. Use weights of that depth, or change the detector along: "
        f"--set-depth sets {backbone.place}.depth={source.depth} and the neck's in_channels={channels}."
    )


def _set_depth(model: Any, backbone: Backbone, source: WeightsSource, report: SwapReport) -> None:
    settings = backbone.settings
    if source.depth is None:
        raise ConfigError(f"--set-depth: {source.uri} does not say which depth its network has.")
    if settings.get("depth") == source.depth:
        return
    _set(report, settings, f"{backbone.place}.depth", source.depth)
    channels = _chosen(resnet_layout(settings, backbone.type_name).channels, settings)
    place, neck = _neck(model, backbone)
    if neck is None:
        raise ConfigError(
            f"--set-depth: {backbone.place} feeds a head without a neck; set that head's in_channels to {channels} "
            "and the depth in the config yourself."
        )
    wanted = channels if isinstance(neck.get("in_channels"), (list, tuple)) else channels[-1]
    if neck.get("in_channels") != wanted:
        _set(report, neck, f"{place}.in_channels", wanted)


def _check_tensors(
    model: Any,
    backbone: Backbone,
    layout: ResNetLayout,
    source: WeightsSource,
    report: SwapReport,
    allowance: Allowance,
    problems: _Problems,
) -> None:
    """The load report, from names and shapes."""
    if source.shapes is None:
        return
    live = dict(layout.shapes)
    holder = backbone.place.rpartition(".")[0]
    for shared in shared_stages(model):
        stage = shared.settings.get("stage", 3)
        if shared.place.startswith(holder):
            whole = resnet_layout({"depth": shared.settings.get("depth")}).shapes
            live |= {name: shape for name, shape in whole.items() if name.startswith(f"layer{stage + 1}.")}
    found = compare_layout(live, source.shapes, source.uri, allowance)
    report.load[backbone.place] = found.summary()
    report.load_text.append(found.describe())
    for pattern, why in layout.added.items():
        added = [name for name in found.missing if _fits(name, pattern)]
        if added:
            problems.add(
                f"{len(added)} tensors of {why} ({added[0]}, …) would start from random weights", pattern
            )
            found.missing = [name for name in found.missing if name not in added]
    if not found.ok:
        problems.add(_left(found), *_patterns(found))


def _left(found: TransferReport) -> str:
    return "\n  ".join(found.describe().splitlines())


def _patterns(found: TransferReport) -> list[str]:
    """Names that would allow what is wrong, whole stages together; none where it is another network."""
    if len(found.matched) < found.num_live / 2 or found.shape_mismatched:
        return []
    names = [*found.missing, *found.unexpected]
    stages = {name.partition(".")[0] for name in names}
    kept = {name.partition(".")[0] for name in found.matched}
    patterns = [f"{stage}.*" for stage in sorted(stages - kept)]
    return patterns + sorted(name for name in names if name.partition(".")[0] in kept)[:12]


def _fits(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


def _check_computation(backbone: Backbone, allowance: Allowance, problems: _Problems) -> None:
    """Settings under which the same tensors compute something else than in the network that was trained."""
    settings = backbone.settings
    for key, plain in (("strides", (1, 2, 2, 2)), ("dilations", (1, 1, 1, 1))):
        values = tuple(settings.get(key, plain))
        stage = next(
            (f"layer{i + 1}" for i, (a, b) in enumerate(zip(values, plain, strict=False)) if a != b), None
        )
        if stage and not allowance.probe(stage):
            problems.add(
                f"{backbone.place}.{key}={values}, the weights were trained with {plain[: len(values)]}: "
                f"other features from {stage} on",
                f"probe.{stage}",
            )
    conv = (settings.get("conv_cfg") or {}).get("type", "Conv2d")
    if bare_type(conv) not in ("Conv", "Conv2d") and not allowance.probe("layer1"):
        problems.add(
            f"{backbone.place}.conv_cfg is {conv}, the weights were trained with plain Conv2d", "probe"
        )


def _neck(model: Any, backbone: Backbone) -> tuple[str, dict | None]:
    """The first neck behind a backbone, with its place."""
    for place, node in reversed(list(holders(model, backbone.place))):
        neck = node.get("neck")
        if isinstance(neck, (list, tuple)) and neck and isinstance(neck[0], dict):
            return f"{place}.neck.0", neck[0]
        if isinstance(neck, dict):
            return f"{place}.neck", neck
    return "", None


def _chosen(channels: Any, settings: dict) -> list[int]:
    return [channels[index] for index in settings.get("out_indices", (0, 1, 2, 3)) if index < len(channels)]


def _check_neck(model: Any, backbone: Backbone, layout: ResNetLayout) -> None:
    place, neck = _neck(model, backbone)
    wanted = (neck or {}).get("in_channels")
    given = _chosen(layout.channels, backbone.settings)
    if isinstance(wanted, int):
        wanted, given = [wanted], given[-1:]
    if wanted is None or len(wanted) != len(given) or list(wanted) == given:
        return
    raise ConfigError(
        f"{place}.in_channels is {list(wanted)}, but {backbone.place} of depth {backbone.settings.get('depth')} gives "
        f"{given}. Set {place}.in_channels={given}, or give --set-depth along with --backbone."
    )


def _swap_shared_stages(model: Any, source: WeightsSource, report: SwapReport) -> None:
    """A C4 detector has layer4 in its RoI head, loaded from the same file by an ``init_cfg`` of its own."""
    for stage in shared_stages(model):
        settings, place = stage.settings, stage.place
        init_cfg = {"type": "Pretrained", "checkpoint": source.checkpoint}
        _set(report, settings, f"{place}.init_cfg", init_cfg)
        if settings.get("pretrained"):
            _set(report, settings, f"{place}.pretrained", None)
        style = source.arch.style if source.arch else None
        if style and settings.get("style", "pytorch") != style:
            _set(report, settings, f"{place}.style", style)


def _drop_whole_models(cfg: Any, model: Any, backbones: list[Backbone], report: SwapReport) -> None:
    """A checkpoint of the whole model would be loaded over the backbone, or keep its own ``init_cfg`` from running."""
    dropped = []
    if cfg.get("load_from"):
        dropped.append(f"load_from={cfg['load_from']}")
        cfg["load_from"] = None
    for backbone in backbones:
        for place, node in holders(model, backbone.place):
            init_cfg = node.get("init_cfg")
            first = init_cfg[0] if isinstance(init_cfg, (list, tuple)) and init_cfg else init_cfg
            if isinstance(first, dict) and first.get("checkpoint"):
                dropped.append(f"{place}.init_cfg={first['checkpoint']}")
                node["init_cfg"] = None
    report.warnings += [
        f"removed {what}: a checkpoint of the whole model would be loaded over the swapped backbone. "
        "Neck and heads start from random weights."
        for what in dropped
    ]


def _set(report: SwapReport, node: dict, place: str, value: Any, quiet: bool = False) -> None:
    key = place.rpartition(".")[2]
    before = node.get(key)
    node[key] = value
    if not quiet and before != value:
        report.changes.append(f"{place}: {before!r} -> {value!r}")
