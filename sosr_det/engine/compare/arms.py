"""The arms of a comparison: every config with every backbone, named, their weights pinned."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.places import find_backbones
from sosr_det.engine.backbone.source import RANDOM
from sosr_det.engine.backbone.uri import look_up
from sosr_det.engine.provenance import config_digest
from sosr_det.errors import ConfigError

_LONGEST_NAME = 60  # characters of a folder's name


@dataclass(frozen=True)
class Arm:
    """One of the twins.

    Attributes:
        name: folder of its runs, and its name in tables; unique in its comparison.
        config: name or file, as given.
        config_digest: of what the config says, overrides included.
        backbone: as given with ``--backbones``; the config's own where none was; None for a config without weights.
        weights: what its runs are given as ``--backbone``: the pinned URI of an entry, else ``backbone`` itself.
        digest: SHA-256 of the entry or of the weights file; None for what is neither.
    """

    name: str
    config: str
    config_digest: str
    backbone: str | None
    weights: str | None
    digest: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_arms(
    configs: Sequence[tuple[str, Any]],
    backbones: Sequence[str],
    pinned: dict[str, tuple[str, str | None]],
    known: Sequence[Arm] = (),
) -> list[Arm]:
    """Every config with every backbone, configs first.

    Args:
        configs: names and loaded configs, overrides applied.
        backbones: URIs, files or ``random``; none means each config's own.
        pinned: backbones that were pinned before, as ``weights`` and ``digest``; they keep them. New ones are added.
        known: arms that were named before: a name does not change when others join.

    Raises:
        ConfigError: fewer than two arms, a config or backbone given twice.
        RegistryError, BackboneMismatchError: a backbone that cannot be found.
    """
    for flag, given in (("--config", [name for name, _ in configs]), ("--backbones", list(backbones))):
        twice = next((each for each in given if given.count(each) > 1), None)
        if twice is not None:
            raise ConfigError(f"{flag} {twice} is given twice; its runs would be the same.")
    if len(configs) * max(1, len(backbones)) < 2:
        raise ConfigError(
            "a comparison needs two arms: give --backbones A B, or --config several times, or both."
        )
    config_labels = _labels([_stem(name) for name, _ in configs])
    backbone_labels = _labels([_backbone_name(uri) for uri in backbones])
    names_before = {(arm.config, arm.backbone): arm.name for arm in known}
    arms = []
    for (config, cfg), config_label in zip(configs, config_labels, strict=True):
        for uri, backbone_label in zip(
            backbones or [own_backbone(cfg)], backbone_labels or [""], strict=True
        ):
            parts = [config_label if len(configs) > 1 else "", backbone_label]
            name = names_before.get((config, uri)) or "_on_".join(filter(None, parts))
            weights, digest = (None, None) if uri is None else _pin(uri, pinned)
            arms.append(Arm(name, config, config_digest(cfg), uri, weights, digest))
    return _distinct(arms, set(names_before.values()))


def _distinct(arms: list[Arm], taken: set[str]) -> list[Arm]:
    """No two names alike, nor alike but for upper and lower case, which some file systems do not tell apart."""
    used = {name.lower() for name in taken}
    distinct = []
    for arm in arms:
        if arm.name not in taken and arm.name.lower() in used:
            suffix = hashlib.sha256(f"{arm.config}\n{arm.backbone}".encode()).hexdigest()[:6]
            arm = replace(arm, name=f"{arm.name}-{suffix}")
        used.add(arm.name.lower())
        distinct.append(arm)
    return distinct


def own_backbone(cfg: Any) -> str | None:
    """The weights that a config names itself for its (first) backbone."""
    for backbone in find_backbones(cfg.get("model") or {}):
        init = backbone.settings.get("init_cfg")
        if isinstance(init, dict) and init.get("checkpoint"):
            return str(init["checkpoint"])
    return None


def _pin(uri: str, pinned: dict[str, tuple[str, str | None]]) -> tuple[str, str | None]:
    if uri not in pinned:
        if uri == RANDOM:
            pinned[uri] = (uri, None)
        else:
            source = look_up(uri)
            digest = _file_digest(Path(uri)) if source.kind == "file" else source.digest
            pinned[uri] = (source.checkpoint, digest)
    weights, digest = pinned[uri]
    _require_same_file(uri, digest)
    return weights, digest


def require_same_weights(arm: Arm) -> None:
    """Look again, before a run starts, that a weights file is the one that the comparison began with.

    Raises:
        ConfigError: it changed, or cannot be read. Weights that are no file cannot change: they are pinned.
    """
    if arm.backbone is not None:
        _require_same_file(arm.backbone, arm.digest)


def _require_same_file(uri: str, digest: str | None) -> None:
    if "://" not in uri and uri != RANDOM and _file_digest(Path(uri)) != digest:
        raise ConfigError(
            f"the weights file {uri} changed since this comparison began; put the old one back, or use another "
            "--work-dir."
        )


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"the weights file {path} cannot be read: {error}") from error


def _stem(config: str) -> str:
    return Path(config.rpartition("::")[2]).name.removesuffix(".py")


def _backbone_name(uri: str) -> str:
    """``sosr://NAME@TAG`` without scheme and ``@latest``, a digest shortened, a file without folder and ending."""
    scheme, separator, rest = uri.rpartition("://")
    if not separator:
        return Path(rest).stem if rest != RANDOM else rest
    rest = re.sub(r"sha256:([0-9a-f]{12})[0-9a-f]+", r"\1", rest.removesuffix("@latest"))
    return rest if scheme == "sosr" else f"{scheme}-{rest}"


def _labels(names: Sequence[str]) -> list[str]:
    """Short names that tell the given ones apart: only the parts between underscores that differ, where that works."""
    tame = [re.sub(r"[^A-Za-z0-9.@_-]+", "-", name).strip("-.") or "unnamed" for name in names]
    parts = [name.split("_") for name in tame]
    if len({len(part) for part in parts}) == 1:
        places = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
        short = ["_".join(part[i] for i in places) for part in parts]
        if all(short) and len(set(map(str.lower, short))) == len(names):
            tame = short
    if len(set(map(str.lower, tame))) < len(names) or max(map(len, tame), default=0) > _LONGEST_NAME:
        # Two must never share a folder, whatever was cut or replaced.
        tame = [
            f"{label[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
            for label, name in zip(tame, names, strict=True)
        ]
    return tame
