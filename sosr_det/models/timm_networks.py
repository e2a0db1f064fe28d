"""Any timm model as a backbone, by ``timm/NAME``; timm is imported when one is asked for."""

from __future__ import annotations

import difflib

from torch import nn

from sosr_det.errors import ConfigError
from sosr_det.models.backbone_spec import BackboneSpec

PREFIX = "timm/"


def build(name: str) -> tuple[nn.Module, BackboneSpec]:
    """The timm model without classifier, pooled as timm pools it, with random weights and no download.

    Raises:
        ConfigError: no such model, or a tag of pretrained weights behind it; near names are listed.
    """
    import timm

    own_name = name.removeprefix(PREFIX)
    known = timm.list_models()
    if own_name not in known:
        untagged = own_name.partition(".")[0]
        if untagged in known:
            raise ConfigError(
                f"backbone {name!r}: the tag after the dot names pretrained weights, and a backbone starts from random "
                f"ones. Use {PREFIX + untagged!r}; weights come from the backbone's init_cfg."
            )
        near = difflib.get_close_matches(own_name, known, n=5, cutoff=0.5)
        hint = (
            f"did you mean one of: {', '.join(PREFIX + n for n in near)}?"
            if near
            else "timm.list_models() lists them."
        )
        raise ConfigError(f"backbone {name!r}: timm {timm.__version__} has no model {own_name!r}; {hint}")
    network = timm.create_model(own_name, pretrained=False, num_classes=0)
    height, width = network.default_cfg["input_size"][-2:]
    return network, BackboneSpec(
        name=name,
        source="timm",
        source_name=own_name,
        style=None,
        stem=f"as in timm, made for {height}x{width} px",
        initialisation="timm's own",
        depth=None,
        stage_channels=_stage_channels(network),
        # Some models widen the pooled features once more before the classifier.
        num_features=getattr(network, "head_hidden_size", network.num_features),
    )


def near_names(name: str) -> list[str]:
    """``timm/NAME`` for a name that was given without the prefix; empty when timm does not know it."""
    import timm

    return [PREFIX + name] if name in timm.list_models() else []


def _stage_channels(network: nn.Module) -> tuple[int, ...]:
    info = getattr(network, "feature_info", None) or []
    return tuple(info.channels() if hasattr(info, "channels") else (stage["num_chs"] for stage in info))
