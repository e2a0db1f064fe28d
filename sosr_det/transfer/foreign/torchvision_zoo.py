"""torchvision's pretrained ResNets by name, and by the hash that torchvision puts into its file names."""

from __future__ import annotations

import difflib
import re
from typing import Any

from sosr_det.errors import ConfigError
from sosr_det.models.imagenet_resnets import SPECS
from sosr_det.transfer.foreign.evidence import Evidence
from sosr_det.transfer.foreign.preprocessing import from_unit_scale

SCHEME = "torchvision://"
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")


def find_weights(name: str) -> tuple[Any, list[str]]:
    """The torchvision weights that ``name`` (what follows ``torchvision://``) means, and what was taken for granted.

    Besides ``ResNet50_Weights.IMAGENET1K_V2`` the names that MMDetection's configs hold are understood:
    ``resnet50``, which means IMAGENET1K_V1 there, and ``resnet50.imagenet1k_v2``.

    Raises:
        ConfigError: unknown name, or a network that is no ResNet; near names are listed.
    """
    known = _all_weights()
    if name in known:
        return known[name], []
    model, dot, version = name.partition(".")
    of_model = {
        str(weights).partition(".")[2]: weights for weights in known.values() if _model_of(weights) == model
    }
    if not dot and "IMAGENET1K_V1" in of_model:
        default = of_model["IMAGENET1K_V1"]
        others = [f"{SCHEME}{each}" for each in of_model.values() if each is not default]
        said = f"{SCHEME}{name} means {SCHEME}{default}, as in MMDetection"
        return default, [said + (f" (newer: {', '.join(others)})" if others else "")]
    if version.upper() in of_model:
        return of_model[version.upper()], []
    choices = [*known, *{_model_of(weights) for weights in known.values()}]
    near = difflib.get_close_matches(name, choices, n=4, cutoff=0.4) or list(known)[:4]
    raise ConfigError(
        f"{SCHEME}{name} is none of torchvision's pretrained ResNets; did you mean "
        f"{', '.join(SCHEME + n for n in near)}? Other networks come from timm (timm://NAME) or a file with --arch."
    )


def evidence_of(weights: Any, why: str) -> Evidence:
    """What torchvision says about its weights.

    torchvision states no license for most of its weights (its code's BSD-3-Clause does not cover them), so the license
    is unknown unless its meta names one.
    """
    import torchvision

    meta, transforms = weights.meta, weights.transforms()
    metrics = next(iter(meta.get("_metrics", {}).values()), {})
    names = {"acc@1": "top1", "acc@5": "top5"}
    return Evidence(
        project=f"torchvision ({weights})",
        why=why,
        arch=_model_of(weights),
        style="pytorch",
        style_why="torchvision strides in the 3x3 convolution",
        preprocessing=from_unit_scale(
            transforms.mean, transforms.std, transforms.interpolation.value, (transforms.crop_size[0],) * 2
        ),
        preprocessing_why=f"torchvision {torchvision.__version__}'s transforms of {weights}",
        classes=tuple(meta.get("categories", ())),
        metrics={names[key]: float(value) for key, value in metrics.items() if key in names},
        license=meta.get("license"),
        license_why="torchvision's meta"
        if meta.get("license")
        else "torchvision's meta names none for these weights",
        data=next(iter(meta.get("_metrics", {})), None),
    )


def weights_of_file(sha256: str) -> Any | None:
    """The torchvision weights whose file has this SHA-256, by the digits in its published name, or None."""
    for weights in _all_weights().values():
        found = _HASH.search(weights.url)
        if found and sha256.startswith(found[1]):
            return weights
    return None


def _all_weights() -> dict[str, Any]:
    from torchvision.models import get_model_weights

    return {str(weights): weights for name in SPECS for weights in get_model_weights(name)}


def _model_of(weights: Any) -> str:
    return next(name for name in SPECS if str(weights).lower().startswith(f"{name}_weights."))
