"""The transfer contract: a consumer's backbone is exactly the tensors that its checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from sosr_det.errors import BackboneMismatchError, ConfigError
from sosr_det.registry.manifest import Arch, Preprocessing

# What a classifier leaves behind besides its backbone, in torchvision, timm and MMPretrain naming.
CLASSIFIER_HEAD_KEYS = frozenset(
    f"{head}.{part}" for head in ("fc", "head", "classifier", "head.fc") for part in ("weight", "bias")
)

# A pattern that matches all of these names no part of a network.
_NOTHING_IN_COMMON = ("conv1.weight", "bn1.running_mean", "layer4.1.bn2.bias")


class Allowance:
    """Exceptions from the contract, allowed by name; remembers which of them were needed.

    Args:
        names: patterns of tensor names, where ``*`` also spans dots (``layer3.*.conv2.conv_offset.*``), and words:
            ``probe`` (the features of the probe image may differ), ``probe.layer3`` (from that stage on;
            ``probe.pooled`` for networks without such stages),
            ``preprocessing`` (channel order, mean and std may be others than the entry's), ``style`` (the stride
            style may).

    Raises:
        ConfigError: an empty name, one that would allow every tensor, or a stage that no probe has.
    """

    WORDS = ("probe", "preprocessing", "style")
    STAGES = ("layer1", "layer2", "layer3", "layer4", "pooled")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._used: set[str] = set()
        for name in self.names:
            if name.startswith("probe.") and name.removeprefix("probe.") not in self.STAGES:
                raise ConfigError(
                    f"--allow {name!r}: a probe has no such stage. Expected one of "
                    f"{', '.join(f'probe.{stage}' for stage in self.STAGES)}, or probe for all of them."
                )
            if not name or all(fnmatchcase(tensor, name) for tensor in _NOTHING_IN_COMMON):
                raise ConfigError(
                    f"--allow {name!r} would allow anything; name the exception: tensor names such as "
                    f"'layer3.*.conv2.conv_offset.*', or {', '.join(self.WORDS)}, probe.layer4."
                )

    def tensor(self, name: str) -> bool:
        """Whether a tensor (or a pattern of tensors) may be an exception."""
        found = [n for n in self.names if not self._is_word(n) and (fnmatchcase(name, n) or name == n)]
        self._used.update(found)
        return bool(found)

    def word(self, word: str) -> bool:
        """Whether one of :data:`WORDS` is allowed."""
        if word in self.names:
            self._used.add(word)
        return word in self.names

    def probe(self, stage: str) -> bool:
        """Whether the features may differ at ``stage``: a stage computes on what the stages before it gave."""
        if self.word("probe"):
            return True
        found = [n for n in self.names if n.startswith("probe.") and n.removeprefix("probe.") <= stage]
        self._used.update(found)
        return bool(found)

    @property
    def used(self) -> list[str]:
        """The names that were needed, as given."""
        return [name for name in self.names if name in self._used]

    @property
    def unused(self) -> list[str]:
        """The names that nothing needed."""
        return [name for name in self.names if name not in self._used]

    def _is_word(self, name: str) -> bool:
        return name in self.WORDS or name.startswith("probe.")


@dataclass
class TransferReport:
    """What became of each tensor. ``ok`` allows nothing but a left-over classifier head.

    Attributes:
        source: URI or file that the expected tensors came from.
        num_live: how many tensors the live backbone has.
        matched: names that agree in shape, dtype and every bit.
        missing: names that the live backbone has and the source lacks.
        unexpected: names that the source has and the live backbone lacks, without the classifier head.
        shape_mismatched: name -> (live shape, source shape).
        different: name -> largest absolute difference; NaN where a value is not finite.
        classifier_head: left-over head names in the source, which is what should be left over.
        unusable: name -> reason, for values no backbone can work with (NaN, infinite, negative variance).
        allowed: name -> what is wrong with it, for tensors that were allowed by name.
    """

    source: str
    num_live: int = 0
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    different: dict[str, float] = field(default_factory=dict)
    classifier_head: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    allowed: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when every live tensor matches and nothing but a classifier head is left over."""
        problems = self.missing or self.unexpected or self.shape_mismatched or self.different or self.unusable
        return bool(self.matched) and not problems

    def summary(self) -> dict[str, int]:
        """Counts per outcome, for the run record."""
        return {
            "matched": len(self.matched),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "shape_mismatched": len(self.shape_mismatched),
            "different": len(self.different),
            "unusable": len(self.unusable),
            "classifier_head_left_over": len(self.classifier_head),
            "allowed": len(self.allowed),
        }

    def describe(self) -> str:
        """The report as text: one line of counts, then examples of each problem, and a likely cause."""
        counts = [
            f"{count} {name.replace('_', ' ')}"
            for name, count in self.summary().items()
            if name != "matched" and count
        ]
        lines = [
            f"backbone from {self.source}: {len(self.matched)} of {self.num_live} tensors match; "
            + (", ".join(counts) or "nothing missing, nothing left over")
        ]
        shapes = [f"{n} (live {list(a)}, source {list(b)})" for n, (a, b) in self.shape_mismatched.items()]
        values = [f"{n} (largest difference {d:.3g})" for n, d in self.different.items()]
        bad = [f"{n} ({reason})" for n, reason in self.unusable.items()]
        for title, names in (
            ("missing from the source", self.missing),
            ("unexpected in the source", self.unexpected),
            ("shape mismatched", shapes),
            ("different values", values),
            ("unusable values", bad),
            ("allowed by name", [f"{n} ({reason})" for n, reason in self.allowed.items()]),
        ):
            if names:
                more = f", … {len(names) - 4} more" if len(names) > 4 else ""
                lines.append(f"  {title}: {', '.join(names[:4])}{more}")
        cause = self._likely_cause()
        if cause:
            lines.append(f"  likely cause: {cause}")
        return "\n".join(lines)

    def _likely_cause(self) -> str | None:
        if self.missing and self.unexpected:
            for prefix in ("module.backbone.", "backbone.", "module.", "encoder_q.", "model."):
                if set(self.unexpected) & {prefix + name for name in self.missing}:
                    return (
                        f"the source's names carry the prefix {prefix!r}. `sosr-det registry import FILE --name NAME` "
                        "takes the backbone out of the file; then use sosr://NAME."
                    )
        if self.shape_mismatched:
            return "another architecture or depth; compare the backbone's depth with the checkpoint's."
        if self.missing and not self.unexpected and self.matched:
            return "an incomplete checkpoint, or one of a shallower network."
        if self.unexpected and self.matched:
            return "a deeper network's checkpoint."
        if self.different:
            return "the weights were changed after loading, or the file was damaged."
        return None


def compare_backbone(
    live: Mapping[str, Tensor],
    source: Mapping[str, Any],
    source_name: str,
    allow: Allowance | Iterable[str] = (),
) -> TransferReport:
    """Compare a live backbone's state dict with the tensors it should hold, bit for bit.

    Args:
        live: state dict of the backbone module, on any device.
        source: the checkpoint's state dict, backbone names without prefix.
        source_name: for messages.
        allow: names of exceptions, see :class:`Allowance`.

    ``num_batches_tracked`` may be absent from the source: it does not enter any computation with a fixed
    momentum, and old torchvision files lack it.
    """
    allowance = allow if isinstance(allow, Allowance) else Allowance(allow)
    report = TransferReport(source_name, num_live=len(live))
    _sort_left_over(report, live, source, allowance)
    for name, tensor in live.items():
        expected = source.get(name)
        if expected is None or not isinstance(expected, Tensor):
            _sort_missing(report, name, allowance)
            continue
        expected = expected.detach().cpu()
        actual = tensor.detach().cpu()
        if actual.shape != expected.shape:
            _sort_misshapen(report, name, tuple(actual.shape), tuple(expected.shape), allowance)
            continue
        reason = _why_unusable(name, expected)
        if torch.equal(actual, expected.to(actual.dtype)):
            report.matched.append(name)
        elif not reason:
            difference = float((actual.double() - expected.double()).abs().max())
            if allowance.tensor(name):
                report.allowed[name] = f"largest difference {difference:.3g}"
            else:
                report.different[name] = difference
        if reason and allowance.tensor(name):
            report.allowed[name] = reason
        elif reason:
            report.unusable[name] = reason
    return report


def compare_layout(
    live: Mapping[str, tuple[int, ...] | None],
    source: Mapping[str, tuple[int, ...]],
    source_name: str,
    allow: Allowance | Iterable[str] = (),
) -> TransferReport:
    """As :func:`compare_backbone`, from names and shapes alone, before anything is built.

    Args:
        live: name -> shape of the tensors that the backbone will have; None where it is not known. A name may be a
            pattern that ends in ``.*``.
        source: name -> shape of the checkpoint's tensors.
    """
    allowance = allow if isinstance(allow, Allowance) else Allowance(allow)
    report = TransferReport(source_name, num_live=len(live))
    _sort_left_over(report, live, source, allowance)
    for name, shape in live.items():
        if name not in source:
            _sort_missing(report, name, allowance)
        elif shape is not None and tuple(shape) != tuple(source[name]):
            _sort_misshapen(report, name, tuple(shape), tuple(source[name]), allowance)
        else:
            report.matched.append(name)
    return report


def _sort_left_over(report: TransferReport, live: Any, source: Any, allowance: Allowance) -> None:
    for name in source:
        if name in live:
            continue
        if name in CLASSIFIER_HEAD_KEYS:
            report.classifier_head.append(name)
        elif allowance.tensor(name):
            report.allowed[name] = "unexpected in the source"
        else:
            report.unexpected.append(name)


def _sort_missing(report: TransferReport, name: str, allowance: Allowance) -> None:
    if name.endswith("num_batches_tracked"):
        return
    if allowance.tensor(name):
        report.allowed[name] = "missing from the source"
    else:
        report.missing.append(name)


def _sort_misshapen(
    report: TransferReport, name: str, live: tuple[int, ...], source: tuple[int, ...], allowance: Allowance
) -> None:
    if allowance.tensor(name):
        report.allowed[name] = f"shape {list(live)}, in the source {list(source)}"
    else:
        report.shape_mismatched[name] = (live, source)


def _why_unusable(name: str, tensor: Tensor) -> str | None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        return "holds NaN or infinite values"
    if name.endswith("running_var") and (tensor < 0).any():
        return "holds negative variances"
    return None


def require_match(report: TransferReport) -> None:
    """Raise unless the report is a full match.

    Raises:
        BackboneMismatchError: with the whole report.
    """
    if not report.ok:
        raise BackboneMismatchError(
            f"the backbone does not match its checkpoint, so the run stops before its first step.\n{report.describe()}"
        )


def check_arch(
    backbone_cfg: Mapping[str, Any],
    arch: Arch,
    source_name: str,
    allow: Allowance | Iterable[str] = (),
    place: str = "model.backbone",
) -> None:
    """Compare a config's backbone with the entry's architecture before anything is built.

    Args:
        backbone_cfg: ``model.backbone`` of an MMDetection config (``depth``, ``style``) or of ours (``arch``).
        arch: the manifest's architecture record; a whole detector's says its backbone's style and no depth.
        source_name, place: for messages.

    Raises:
        ConfigError: another architecture or depth, or a bottleneck that strides elsewhere (``style``), which has
            the same tensor names and shapes and would load without a word.
    """
    allowance = allow if isinstance(allow, Allowance) else Allowance(allow)
    wanted = backbone_cfg.get("arch")
    if wanted is not None and wanted != arch.name:
        raise ConfigError(f"{source_name} holds a {arch.name}, but the config's backbone is a {wanted}.")
    entry_depth = re.fullmatch(r"(?:wide_)?res(?:net|next)(\d+)\w*", arch.name)
    bottleneck = entry_depth is not None and int(entry_depth[1]) >= 50
    if wanted is not None and bottleneck and arch.style == "caffe" and not allowance.word("style"):
        raise ConfigError(
            f"{source_name} was trained with style='caffe' (its bottlenecks stride in their first convolution), and a "
            f"{wanted} of sosr-det strides in the second. The tensors would load without an error and compute "
            "something else; use weights with style='pytorch', or put these under a detector."
        )
    depth = backbone_cfg.get("depth")
    if depth is not None and (arch.library == "pytorchcv" or arch.name.endswith("_32px")):
        raise ConfigError(
            f"{source_name} holds a {arch.name} for small images ({arch.stem}), which MMDetection's backbone of depth "
            f"{depth} cannot hold. Use it under a classifier, model.backbone=dict(arch={arch.name!r})."
        )
    if depth is None:
        return
    if entry_depth is not None and int(depth) != int(entry_depth[1]):
        raise ConfigError(
            f"{source_name} holds a {arch.name}, but the config's backbone has depth {depth}. Use a backbone "
            f"of that depth, or set {place}.depth={entry_depth[1]} and "
            f"model.neck.in_channels={list(arch.feature_channels)}."
        )
    style = backbone_cfg.get("style", "pytorch")
    if int(depth) >= 50 and arch.style is not None and style != arch.style and not allowance.word("style"):
        raise ConfigError(
            f"{source_name} was trained with style={arch.style!r} (where a bottleneck strides), the config "
            f"says style={style!r}. The tensors would load without an error and compute something else; "
            f"set {place}.style={arch.style!r}."
        )


def check_preprocessing(
    preprocessor: Mapping[str, Any],
    expected: Preprocessing,
    source_name: str,
    allow: Allowance | Iterable[str] = (),
) -> None:
    """Compare a config's ``data_preprocessor`` with the preprocessing that the backbone was trained with.

    Raises:
        ConfigError: other mean, std or channel order; names both sides and the setting to change.
    """
    factor = 255.0 if expected.scale == "0-1" else 1.0
    problems = []
    for key, theirs in (("mean", expected.mean), ("std", expected.std)):
        theirs = [value * factor for value in theirs]
        ours = preprocessor.get(key)
        if (
            ours is None
            or len(ours) != len(theirs)
            or any(abs(a - b) > 1e-3 for a, b in zip(ours, theirs, strict=True))
        ):
            problems.append(f"{key} is {ours and list(ours)}, the backbone was trained with {theirs}")
    # MMDetection decodes to BGR; bgr_to_rgb decides what the backbone sees. Our own loaders give RGB.
    ours = preprocessor.get("type") == "ClassificationPreprocessor"
    order = "rgb" if ours or preprocessor.get("bgr_to_rgb") else "bgr"
    if order != expected.channel_order:
        problems.append(
            f"the channel order is {order}, the backbone was trained with {expected.channel_order}"
        )
    allowance = allow if isinstance(allow, Allowance) else Allowance(allow)
    if problems and not allowance.word("preprocessing"):
        raise ConfigError(
            f"model.data_preprocessor does not fit {source_name}: {'; '.join(problems)}. "
            "Set mean, std and bgr_to_rgb to the backbone's (0-255 scale)."
        )
