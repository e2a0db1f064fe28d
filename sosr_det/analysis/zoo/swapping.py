"""The swap as a user makes it: refused once, then with the exceptions that the refusal names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sosr_det.analysis.zoo.families import plain_resnets
from sosr_det.engine.backbone.resnet_layout import BATCH_NORMS, norm_type
from sosr_det.engine.backbone.swap import SwapReport, swap_backbone
from sosr_det.errors import BackboneMismatchError

PLAIN_LAYERS = (
    "batch norm and plain convolutions of the entry in place of the backbone's group norm or standardised weights: "
    "the swap alone refuses such a config, and says to do this"
)


def swap(load: Callable[[], Any], uri: str, registry_root: str | Path) -> tuple[Any, SwapReport, list[str]]:
    """Load a config and put a backbone under it.

    Args:
        load: gives the config; called again after a refusal, which leaves the first one half changed.
        uri: of the backbone.
        registry_root: the registry that has it.

    Returns:
        The config, the report (``allowed`` has the exceptions that were needed), and phrases for what was changed
        before, so that the backbone can hold the entry at all.

    Raises:
        SosrError: see :func:`sosr_det.engine.backbone.swap.swap_backbone`, for refusals that no exception helps.
    """
    cfg, phrases = _prepared(load)
    try:
        return cfg, swap_backbone(cfg, uri, registry_root=registry_root), phrases
    except BackboneMismatchError as refusal:
        names = getattr(refusal, "allow", ())
        if not names:
            raise
    cfg, phrases = _prepared(load)
    return cfg, swap_backbone(cfg, uri, names, registry_root=registry_root), phrases


def _prepared(load: Callable[[], Any]) -> tuple[Any, list[str]]:
    """A config whose ResNets have the layers of an ordinary one: group norm and standardised weights are others."""
    cfg = load()
    phrases = []
    for backbone in plain_resnets(cfg.model):
        settings = backbone.settings
        if norm_type(settings) not in BATCH_NORMS or settings.get("conv_cfg"):
            settings["norm_cfg"], settings["conv_cfg"] = {"type": "BN", "requires_grad": True}, None
            phrases = [PLAIN_LAYERS]
    return cfg, phrases
