"""The contract between a built model's backbone and the weights that it should hold, checked on the live modules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from sosr_det.engine.backbone.places import live_shared_stages, shared_stages
from sosr_det.engine.backbone.preprocessing import check_pipeline, pipeline_steps
from sosr_det.engine.configs import bare_type
from sosr_det.errors import BackboneMismatchError
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.names import SCHEME
from sosr_det.transfer.contract import (
    Allowance,
    TransferReport,
    check_arch,
    check_preprocessing,
    compare_backbone,
    require_match,
)
from sosr_det.transfer.probe import compare_probe, probe_live

_SHOWN = 50  # allowed tensors that the record names; the rest are counted


@dataclass
class Weights:
    """What a live backbone should hold: tensors by backbone name, and the entry's manifest where there is one."""

    uri: str
    tensors: dict[str, Any]
    manifest: Manifest | None = None
    digest: str | None = None


@dataclass
class Checked:
    """The outcome of :func:`check_backbone`: the load report, and lines about the rest."""

    report: TransferReport
    lines: list[str] = field(default_factory=list)

    def record(self, allowance: Allowance) -> dict[str, Any]:
        """For the run record: counts, and every exception that was made."""
        allowed = dict(list(self.report.allowed.items())[:_SHOWN])
        names = {"allowed_names": allowance.used, "allowed_tensors": allowed} if allowance.used else {}
        return {**self.report.summary(), **names}


def load_weights(checkpoint: str, prefix: str | None = None, only: str | None = None) -> Weights:
    """Read weights the way mmengine does: through its loaders, which are this project's for ``sosr://`` and files.

    Args:
        checkpoint: path or URI.
        prefix: of an ``init_cfg``: only names that start with it are meant, and lose it.
        only: as ``prefix``, for a checkpoint of a whole model.
    """
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu", logger="silent")
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    # mmengine strips this prefix itself when it loads a whole file.
    state = {str(k).removeprefix("module."): v for k, v in state.items()}
    for part in filter(None, (prefix, only)):
        part = part.rstrip(".") + "."
        state = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
    if not str(checkpoint).startswith(SCHEME):
        return Weights(checkpoint, state)
    meta = loaded["meta"]  # verified, see sosr_det.registry.scheme; a file's own could say anything
    return Weights(checkpoint, state, Manifest.from_dict(meta["manifest"]), meta["sosr_digest"])


def initial_weights(model: Any, name: str, backbone: Any) -> tuple[str, Callable[[], Weights]] | None:
    """The checkpoint that mmengine initialises a live backbone with, and how to load it; None: random weights.

    That of a module around the backbone comes last, over the backbone's own.
    """
    inner = name
    for place in _around(name):
        outer = _pretrained(getattr(model.get_submodule(place), "init_cfg", None))
        if outer is not None:
            inner = name.removeprefix(place).lstrip(".")
            break
    else:
        outer, inner = (
            _pretrained(getattr(model, "backbone_init_cfg", getattr(backbone, "init_cfg", None))),
            None,
        )
    if outer is None:
        return None
    checkpoint = str(outer["checkpoint"])
    return checkpoint, lambda: load_weights(checkpoint, outer.get("prefix"), only=inner)


def _around(name: str) -> list[str]:
    """Names of the modules around one, outermost first: "" (the model), "student", …"""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))]


_PRETRAINED = ("Pretrained", "PretrainedInit")


def _pretrained(init_cfg: Any) -> dict | None:
    for candidate in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
        if isinstance(candidate, dict) and bare_type(candidate.get("type")) in _PRETRAINED:
            return dict(candidate)
    return None


def check_backbone(
    model: Any, name: str, backbone: Any, weights: Weights, allowance: Allowance, cfg: Mapping[str, Any]
) -> Checked:
    """Compare a live backbone with its weights: every tensor, architecture, preprocessing and probe.

    Args:
        model: the whole built model, unwrapped.
        name: of the backbone module in the model, ``backbone`` or ``student.backbone``.
        backbone: the module.
        weights: what it should hold.
        allowance: exceptions by name.
        cfg: the runner's config, of which only the data pipelines and stages outside of the backbone are read.

    Raises:
        BackboneMismatchError: tensors or features that differ.
        ConfigError: another architecture, stride style or preprocessing than the entry's.
    """
    manifest = weights.manifest
    if manifest is not None:
        live = _live_arch(model, backbone)
        if manifest.kind == "backbone" or "arch" not in live:
            check_arch(live, manifest.arch, weights.uri, allowance)
        for stage in shared_stages(cfg.get("model") or {}):  # what a live one does not remember
            check_arch(stage.settings, manifest.arch, weights.uri, allowance, stage.place)
        _check_preprocessing(model, cfg, manifest, weights.uri, allowance)
    shared = live_shared_stages(model, name)
    report = compare_backbone({**shared, **backbone.state_dict()}, weights.tensors, weights.uri, allowance)
    require_match(report)
    checked = Checked(report)
    if manifest is not None and manifest.kind == "backbone":
        checked.lines.append(
            _check_probe(model, backbone, manifest, weights.uri, report, allowance, set(shared))
        )
    return checked


def _live_arch(model: Any, backbone: Any) -> dict[str, Any]:
    spec = getattr(model, "backbone_spec", None)
    if spec is not None:
        return {"arch": spec.name}
    values = {key: getattr(backbone, key, None) for key in ("depth", "style")}
    return {key: value for key, value in values.items() if value is not None}


def _check_preprocessing(
    model: Any, cfg: Mapping[str, Any], manifest: Manifest, uri: str, allowance: Allowance
) -> None:
    if allowance.word("preprocessing"):
        return
    live = _live_preprocessing(model)
    steps = list(pipeline_steps(cfg))
    if steps:
        check_pipeline(steps, live["mean"] is not None, manifest.preprocessing, uri)
    else:
        check_preprocessing(live, manifest.preprocessing, uri)


def _live_preprocessing(model: Any) -> dict[str, Any]:
    """What the model's own preprocessor does, as a config would say it."""
    preprocessor = getattr(model, "data_preprocessor", None)
    preprocessor = getattr(preprocessor, "data_preprocessor", preprocessor)  # of a semi-supervised model
    live: dict[str, Any] = {"bgr_to_rgb": bool(getattr(preprocessor, "_channel_conversion", False))}
    if getattr(preprocessor, "channel_order", None) == "rgb":
        live["type"] = "ClassificationPreprocessor"
    for key in ("mean", "std"):
        value = getattr(preprocessor, key, None)
        live[key] = value.detach().flatten().tolist() if hasattr(value, "detach") else None
    return live


def _check_probe(
    model: Any,
    backbone: Any,
    manifest: Manifest,
    uri: str,
    report: TransferReport,
    allowance: Allowance,
    shared: set[str],
) -> str:
    """Compare the features of the probe image; returns a line that says what was compared."""
    probe = manifest.probe
    if probe is None:
        return f"probe: skipped, {uri} has none (it was published without one)"
    # Where the preprocessing may differ, or happens in the data pipeline, the network alone is compared.
    elsewise = allowance.word("preprocessing") or _live_preprocessing(model)["mean"] is None
    live = probe_live(model, probe, backbone, manifest.preprocessing if elsewise else None)
    elsewhere = {name.partition(".")[0] for name in shared}
    differences, excused = {}, []
    for stage, text in compare_probe(live, probe).items():
        if stage in elsewhere or _is_touched(stage, report) or allowance.probe(stage):
            excused.append(stage)
        else:
            differences[stage] = text
    if differences:
        first, text = next(iter(differences.items()))
        raise BackboneMismatchError(
            f"the backbone holds the tensors of {uri} but computes something else with them: after {first}, {text}. "
            f"Differing stages: {', '.join(differences)}. Likely causes: another stride style, dilation or stem, "
            "another eps of batch norm, swapped channels or another mean and std. Set the config to what the entry was "
            f"trained with (`sosr-det registry show`), or allow it by name: --allow probe.{first}"
        )
    compared = [stage for stage in probe.stages if stage not in excused]
    text = f"probe: the features agree ({', '.join(compared) or 'no stage was compared'})"
    return (
        f"{text}; not compared: {', '.join(excused)} (allowed, or outside the backbone)" if excused else text
    )


def _is_touched(stage: str, report: TransferReport) -> bool:
    """Whether ``stage`` computes with tensors that were allowed to differ, or on what such a stage gives."""
    stages = [n.partition(".")[0] if n.startswith("layer") else "layer1" for n in report.allowed]
    return bool(stages) and stage >= min(stages)  # the pooled features come after every layer, by name too


def warn(text: str) -> None:
    """A line in the run's log that stands out."""
    print_log(text, logger="current", level=logging.WARNING)
