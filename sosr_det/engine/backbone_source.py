"""Putting a backbone under a config: the ``--backbone`` flag, pinned URIs, checks before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sosr_det.engine.configs import walk_dicts
from sosr_det.errors import BackboneMismatchError, ConfigError, SosrError
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.opening import open_registry
from sosr_det.registry.store import Entry
from sosr_det.transfer.contract import check_arch, check_preprocessing

RANDOM = "random"


def set_backbone(cfg: Any, uri: str) -> str | None:
    """Put ``uri`` under ``cfg.model.backbone``; returns a line to print when more than the URI changed.

    ``random`` removes the checkpoint and, because frozen random layers cannot learn, also unfreezes the
    stages and batch norm of an MMDetection backbone.

    Raises:
        ConfigError: the config's model has no backbone.
    """
    backbone = cfg.get("model", {}).get("backbone")
    if not isinstance(backbone, dict):
        raise ConfigError("--backbone needs a config whose model has a `backbone`; this one has none.")
    if uri != RANDOM:
        backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": uri}
        return None
    backbone["init_cfg"] = None
    if "arch" in backbone:
        return None
    backbone["frozen_stages"] = -1
    backbone["norm_eval"] = False
    if isinstance(backbone.get("norm_cfg"), dict):
        backbone["norm_cfg"]["requires_grad"] = True
    return "backbone: random weights, so frozen_stages=-1, norm_eval=False and trainable batch norm are set"


def pin_checkpoints(cfg: Any) -> dict | None:
    """Replace every ``sosr://NAME`` in the config by its digest, after checking that it fits.

    A run's saved config then names exact weights, so moving a tag later changes nothing.

    Returns:
        ``dict(uri=..., digest=..., pinned_uri=...)`` of the model's backbone, or None for random weights.

    Raises:
        RegistryError: unknown name (near names are listed) or damaged entry.
        ConfigError: other depth, stride style or preprocessing than the config's; a detector under a backbone, or a
            backbone as ``load_from``.
        BackboneMismatchError: a local file that does not exist or is no checkpoint.
    """
    model = cfg.get("model") or {}
    backbone = model.get("backbone") if isinstance(model.get("backbone"), dict) else {}
    used: dict | None = None
    for node in walk_dicts(model):
        init_cfgs = node.get("init_cfg")
        init_cfgs = init_cfgs if isinstance(init_cfgs, (list, tuple)) else [init_cfgs]
        init_cfg = next((c for c in init_cfgs if isinstance(c, dict) and c.get("checkpoint")), None)
        if init_cfg is None:
            continue
        uri = str(init_cfg["checkpoint"])
        record: dict[str, Any] = {"uri": uri, "digest": None}
        if uri.startswith("sosr://"):
            entry = open_registry().resolve(uri)
            if node is not model and not init_cfg.get("prefix"):
                _refuse_whole_detector(entry)
            if node is backbone:
                check_arch(backbone, entry.manifest.arch, uri)
                check_preprocessing(model.get("data_preprocessor") or {}, entry.manifest.preprocessing, uri)
            init_cfg["checkpoint"] = entry.pinned_uri
            record.update(uri=entry.uri, digest=entry.digest, pinned_uri=entry.pinned_uri)
        elif "://" not in uri:
            _require_checkpoint_file(Path(uri))
        if node is backbone:
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
        check_detector(model, entry.manifest, load_from)
        cfg["load_from"] = entry.pinned_uri
    return used


def check_detector(model: Mapping[str, Any], manifest: Manifest, source_name: str) -> None:
    """Compare a config's model with the detector entry that it is to hold: its type and its preprocessing.

    Raises:
        ConfigError: another type, mean, std or channel order; both sides are named.
    """
    if model.get("type") != manifest.arch.name:
        raise ConfigError(
            f"{source_name} holds a {manifest.arch.name}, but the config's model is a {model.get('type')}. Use the "
            f"config that it was trained with ({manifest.recipe.config_name if manifest.recipe else 'not recorded'})."
        )
    unnormalised = {"mean": [0.0] * 3, "std": [1.0] * 3}  # what MMDetection does where nothing is said
    preprocessor = {k: v for k, v in (model.get("data_preprocessor") or {}).items() if v is not None}
    check_preprocessing(unnormalised | preprocessor, manifest.preprocessing, source_name)


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


def _require_checkpoint_file(path: Path) -> None:
    """Read a weights file safely before mmengine does, so that a bad one stops the run at once."""
    from sosr_det.registry.safe_load import load_state_file

    try:
        load_state_file(path)
    except SosrError as error:
        raise BackboneMismatchError(f"the backbone file cannot be used: {error}") from error
