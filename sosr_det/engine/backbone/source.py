"""Putting a backbone under a run: the ``--backbone`` flag, pinned URIs, checks before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.places import find_backbones, shared_stages
from sosr_det.engine.backbone.preprocessing import pipeline_steps
from sosr_det.engine.backbone.swap import SwapReport, swap_backbone
from sosr_det.engine.backbone.uri import file_shapes
from sosr_det.engine.configs import walk_dicts
from sosr_det.errors import ConfigError
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.names import SCHEME
from sosr_det.registry.opening import open_registry
from sosr_det.registry.store import Entry
from sosr_det.transfer.contract import Allowance, check_arch, check_preprocessing

RANDOM = "random"


def settle_backbone(
    cfg: Any, uri: str | None, allow: Iterable[str] = (), *, set_depth: bool = False
) -> tuple[dict | None, list[str]]:
    """Put ``uri`` under the config's backbones (None: leave what the config says), and pin every entry by its digest.

    With a URI, style and preprocessing are set to those of the weights, which the lines say. Without one, they are
    compared, and a difference is refused.

    Args:
        cfg: ``mmengine.config.Config``, changed in place.
        uri: as :func:`sosr_det.engine.backbone.swap.swap_backbone`, or ``random``.
        allow: exceptions from the contract, by name.
        set_depth: as :func:`swap_backbone`; noted in the record as ``set_depth``, since a resumed run needs it again.

    Returns:
        ``dict(uri=..., digest=..., pinned_uri=..., allowed=[...])`` of the model's backbone, or None for random
        weights; and lines to print.

    Raises:
        ConfigError, BackboneMismatchError, RegistryError: see :func:`swap_backbone` and :func:`pin_checkpoints`.
    """
    report: SwapReport | None = None
    lines: list[str] = []
    if uri == RANDOM:
        lines += set_random(cfg)
    elif uri:
        report = swap_backbone(cfg, uri, allow, set_depth=set_depth)
        lines += [f"backbone: {line}" for line in (*report.changes, *report.warnings)]
    record = pin_checkpoints(cfg, allow)
    if record is not None:
        if report is not None:
            record["uri"] = report.uri
        record["allowed"] = list(allow)
        if set_depth:
            record["set_depth"] = True
    return record, lines


def set_random(cfg: Any) -> list[str]:
    """Remove the checkpoint of every backbone and, because frozen random layers cannot learn, unfreeze its layers.

    Returns:
        Lines to print where more than the checkpoint changed.

    Raises:
        ConfigError: the config's model has no backbone.
    """
    backbones = list(find_backbones(cfg.get("model") or {}))
    if not backbones:
        raise ConfigError("--backbone needs a config whose model has a `backbone`; this one has none.")
    lines = []
    for backbone in backbones:
        settings = backbone.settings
        settings["init_cfg"] = None
        if backbone.is_ours:
            continue
        if settings.get("pretrained"):
            settings["pretrained"] = None
        settings["frozen_stages"] = -1
        settings["norm_eval"] = False
        if isinstance(settings.get("norm_cfg"), dict):
            settings["norm_cfg"]["requires_grad"] = True
        lines.append(
            "backbone: random weights, so frozen_stages=-1, norm_eval=False and trainable batch norm are set"
        )
    return lines


def pin_checkpoints(cfg: Any, allow: Iterable[str] = ()) -> dict | None:
    """Replace every ``sosr://NAME`` in the config by its digest, after checking that it fits.

    A run's saved config then names exact weights, so moving a tag later changes nothing.

    Returns:
        ``dict(uri=..., digest=..., pinned_uri=...)`` of the model's (first) backbone, or None for random weights.

    Raises:
        RegistryError: unknown name (near names are listed) or damaged entry.
        ConfigError: other depth, stride style or preprocessing than the config's; a detector under a backbone, or a
            backbone as ``load_from``.
        BackboneMismatchError: a local file that does not exist or is no checkpoint.
    """
    model = cfg.get("model") or {}
    backbones = [backbone.settings for backbone in find_backbones(model)]
    stages = list(shared_stages(model))
    allowance = Allowance(allow)
    used: dict | None = None
    for node in walk_dicts(model):
        init_cfgs = node.get("init_cfg")
        init_cfgs = init_cfgs if isinstance(init_cfgs, (list, tuple)) else [init_cfgs]
        init_cfg = next((c for c in init_cfgs if isinstance(c, dict) and c.get("checkpoint")), None)
        if init_cfg is None:
            continue
        uri = str(init_cfg["checkpoint"])
        is_backbone = any(node is settings for settings in backbones)
        record: dict[str, Any] = {"uri": uri, "digest": None}
        if uri.startswith(SCHEME):
            entry = open_registry().resolve(uri)
            if not init_cfg.get("prefix"):
                if "backbone" in node:
                    _refuse_lone_backbone(entry)
                else:
                    _refuse_whole_detector(entry)
            for stage in stages:
                if node is stage.settings:
                    check_arch(node, entry.manifest.arch, uri, allowance, stage.place)
            if is_backbone:
                try:
                    check_arch(node, entry.manifest.arch, uri, allowance)
                    _check_preprocessing(cfg, entry.manifest.preprocessing, uri, allowance)
                except ConfigError as error:
                    raise ConfigError(
                        f"{error}\nA checkpoint alone changes nothing else in the config. `--backbone {uri}` sets what "
                        "belongs to these weights along with it; `sosr-det swap` writes that as a config."
                    ) from error
            init_cfg["checkpoint"] = entry.pinned_uri
            record.update(uri=entry.uri, digest=entry.digest, pinned_uri=entry.pinned_uri)
        elif "://" not in uri:
            file_shapes(Path(uri))  # read it safely now, so that a bad one stops the run at once
        if is_backbone and used is None:
            used = record
    load_from = cfg.get("load_from")
    if isinstance(load_from, str) and load_from.startswith("sosr://"):
        entry = open_registry().resolve(load_from)
        if entry.manifest.kind != "detector" or cfg.get("stage", "detection") != "detection":
            raise ConfigError(
                f"load_from={load_from!r}: the entry holds a {entry.manifest.kind}, and load_from takes a whole "
                "detector into a detection run; mmengine would load nothing of this without an error. "
                "Use --backbone, or the backbone's init_cfg."
            )
        check_detector(model, entry.manifest, load_from, allowance)
        cfg["load_from"] = entry.pinned_uri
    return used


def check_detector(
    model: Mapping[str, Any], manifest: Manifest, source_name: str, allow: Allowance | Iterable[str] = ()
) -> None:
    """Compare a config's model with the detector entry that it is to hold: type, stride style and preprocessing.

    Raises:
        ConfigError: another type, style, mean, std or channel order; both sides are named.
    """
    if model.get("type") != manifest.arch.name:
        raise ConfigError(
            f"{source_name} holds a {manifest.arch.name}, but the config's model is a {model.get('type')}. Use the "
            f"config that it was trained with ({manifest.recipe.config_name if manifest.recipe else 'not recorded'})."
        )
    for backbone in find_backbones(model):
        if not backbone.is_ours:
            check_arch(backbone.settings, manifest.arch, source_name, allow, backbone.place)
    unnormalised = {"mean": [0.0] * 3, "std": [1.0] * 3}  # what MMDetection does where nothing is said
    preprocessor = {k: v for k, v in (model.get("data_preprocessor") or {}).items() if v is not None}
    check_preprocessing(unnormalised | preprocessor, manifest.preprocessing, source_name, allow)


def _refuse_lone_backbone(entry: Entry) -> None:
    """A backbone's tensors have no prefix: in a whole model none of them would be found."""
    if entry.manifest.kind == "backbone":
        raise ConfigError(
            f"{entry.uri} holds a backbone, and the config gives it to a whole model's init_cfg, where mmengine would "
            "load nothing of it without an error. Put it into the init_cfg of the model's backbone."
        )


def _refuse_whole_detector(entry: Entry) -> None:
    """A detector's tensors are named ``backbone.…``: under a backbone none of them would be found."""
    if entry.manifest.kind != "detector":
        return
    parent = next((p for p in entry.manifest.parents if p.relation == "detector-on"), None)
    advice = "the entry of a backbone"
    if parent is not None:
        pinned = f" (sosr://sha256:{parent.digest})" if parent.digest else ""
        advice = f"the backbone that it was trained on, {parent.uri}{pinned}"
    raise ConfigError(
        f"{entry.uri} is a whole detector ({entry.manifest.arch.name}), not a backbone. Under a backbone use {advice}; "
        f"to go on from the detector as a whole, use load_from={entry.uri!r}."
    )


def _check_preprocessing(cfg: Any, expected: Any, uri: str, allowance: Allowance) -> None:
    preprocessor = cfg["model"].get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    preprocessor = preprocessor.get("data_preprocessor", preprocessor)  # of a semi-supervised model
    if preprocessor.get("mean") is None and any(True for _ in pipeline_steps(cfg)):
        return  # the contract's hook compares the pipelines
    check_preprocessing(preprocessor, expected, uri, allowance)
