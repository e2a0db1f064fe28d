"""Which families MMDetection's model zoo has, and one config of each that uses a ResNet of the wanted depth."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.places import Backbone, find_backbones
from sosr_det.errors import ConfigError, InstallationError

# Folders of MMDetection's configs that hold parts of configs, no models.
_NOT_FAMILIES = ("_base_", "common")

# What makes a config a worse representative of its family: words of its name and their price. The backbone should
# differ from a plain ResNet as little as the family allows, and the model should be its family's smallest.
# `sort` wraps a detector that is trained apart; `dpool` is dearer than `dconv`, so that deformable layers inside the
# backbone are met at least once.
_PRICES = {
    "dpool": 50, "dconv": 40, "mdconv": 40, "dcn": 40, "mdpool": 35, "c4": 30, "dc5": 30, "caffe": 20, "contrib": 20,
    "fast": 15, "rpn": 10, "sort": 8, "syncbn": 8, "amp": 4, "twostage": 4, "cascade": 4, "mask": 4, "panoptic": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A folder of the zoo, and the config that stands for it (None: none has such a ResNet)."""

    name: str
    config: str | None
    why_none: str | None = None

    @property
    def uri(self) -> str:
        """The config by its package name, as ``sosr-det train`` takes it."""
        return f"mmdet::{self.config}"


def zoo_root() -> Path:
    """The folder with the configs of the installed MMDetection, found without importing it.

    Raises:
        InstallationError: MMDetection is not installed, or without its configs.
    """
    spec = importlib.util.find_spec("mmdet")
    roots = [Path(place) / ".mim" / "configs" for place in (spec.submodule_search_locations if spec else ())]
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        raise InstallationError("MMDetection's configs are not installed: pip install onedl-mmdetection")
    return root


def family_names(root: Path) -> list[str]:
    """All families of the zoo, sorted."""
    folders = (path for path in root.iterdir() if path.is_dir() and path.name not in _NOT_FAMILIES)
    return sorted(path.name for path in folders)


def find_families(names: Sequence[str] = (), depth: int = 50, root: Path | None = None) -> list[Family]:
    """One config of each family, the plainest whose model has a ResNet of this depth.

    Args:
        names: families to look at, or configs, ``[mmdet::]FAMILY/NAME.py``; empty for all families.
        depth: 18, 34, 50, 101 or 152.
        root: folder with the families, default the installed MMDetection's.

    Raises:
        ConfigError: an unknown family or config; near names are listed.
    """
    import difflib

    root = root or zoo_root()
    known = family_names(root)
    found = []
    for name in names or known:
        name = name.removeprefix("mmdet::")
        if "/" in name and (root / name).is_file():
            found.append(Family(name.partition("/")[0], name))
        elif name in known:
            found.append(_find_family(root, name, depth))
        else:
            near = difflib.get_close_matches(name.partition("/")[0], known, n=3, cutoff=0.4)
            raise ConfigError(
                f"MMDetection's model zoo has no family or config {name!r}; near families: {', '.join(near) or 'none'}."
            )
    return found


def plain_resnets(model: Any, depth: int | None = None) -> list[Backbone]:
    """Every plain ResNet of the detector inside a model's config, of the given depth or any.

    MMDetection's subclasses (``ResNeXt``, ``ResNetV1d``, ``TridentResNet``, ``DetectoRS_ResNet``, …) have other tensors
    than a ResNet and are left out, as is another package's ResNet (``mmpretrain.ResNet``).
    """
    return [
        backbone
        for backbone in find_backbones(model)
        if backbone.type_name == "ResNet" and depth in (None, backbone.settings.get("depth"))
    ]


def price(config: str) -> tuple[int, int, str]:
    """Sort key of a config's path: the plainest first."""
    words = set(re.split(r"[-_.]", config.rpartition("/")[2]))
    total = sum(_PRICES.get(word, 0) for word in words)
    total -= ("faster" in words) + ("retinanet" in words)  # rather than a part of a detector
    total -= 6 * ("1x" in words) + 3 * ("fpn" in words) + 2 * ("coco" in words)
    return total, len(config), config


def _find_family(root: Path, name: str, depth: int) -> Family:
    from mmengine.config import Config

    paths = sorted((path.relative_to(root).as_posix() for path in (root / name).rglob("*.py")), key=price)
    # A config names its depth, but for a few families: those that do are looked at first.
    paths.sort(key=lambda path: f"r{depth}" not in re.split(r"[-_/.]", path))
    errors, types = [], set()
    for path in paths:
        try:
            # Without the modules that it names, which nothing here needs and which would import mmcv without its ops.
            model = Config.fromfile(root / path, import_custom_modules=False).get("model") or {}
        except Exception as error:  # a config may fail in any way: it is a program
            errors.append(f"{path} does not load ({type(error).__name__}: {_first_line(error, root)})")
            continue
        if plain_resnets(model, depth):
            return Family(name, path)
        types |= {_describe(backbone) for backbone in find_backbones(model)}
    found = f"backbones: {', '.join(sorted(types))}" if types else "no backbone"
    return Family(name, None, "; ".join([found, *errors[:1]]))


def _first_line(error: Exception, root: Path) -> str:
    """Of its message, without this machine's folders."""
    return (str(error).splitlines() or [""])[0].replace(f"{root}/", "")[:80]


def _describe(backbone: Backbone) -> str:
    depth = backbone.settings.get("depth")
    return f"{backbone.type_name}-{depth}" if depth else backbone.type_name
