"""Settings of a config that deserve a look when its backbone changes: said, never changed."""

from __future__ import annotations

from typing import Any

from sosr_det.engine.backbone.places import Backbone
from sosr_det.engine.backbone.uri import WeightsSource


def advice(cfg: Any, backbones: list[Backbone], left: list[str], source: WeightsSource) -> list[str]:
    """Lines about frozen layers, batch norm, learning rate, and what is not known of the weights."""
    lines = []
    for backbone in backbones:
        if not backbone.is_ours:
            lines += _frozen(backbone)
    lines += _learning_rate(cfg)
    if left:
        lines.append(
            f"left as they are: {', '.join(left)}. They get the same images, so a change of the preprocessing is one "
            "for them, too."
        )
    if source.preprocessing is None:
        lines.append(
            f"nothing is known about how {source.uri} was trained: style, mean, std and channel order stay the "
            "config's, and no probe can be compared. `sosr-det registry import` records them with the weights."
        )
    elif source.kind == "entry" and not source.has_probe:
        lines.append(
            f"{source.uri} has no probe (it was published by an older sosr-det), so none is compared."
        )
    return lines


def _frozen(backbone: Backbone) -> list[str]:
    settings, place, lines = backbone.settings, backbone.place, []
    frozen = settings.get("frozen_stages", -1)
    norm = settings.get("norm_cfg") or {}
    if frozen >= 0:
        what = (
            "the stem" if frozen == 0 else f"the stem and layer1{f' to layer{frozen}' if frozen > 1 else ''}"
        )
        lines.append(
            f"{place}.frozen_stages={frozen}: {what} keep these weights and batch norm statistics; when training ends, "
            "they are compared with them bit by bit."
        )
    if norm.get("requires_grad") is False:
        lines.append(
            f"{place}.norm_cfg.requires_grad=False: batch norm's scale and shift are not trained. MMDetection's caffe "
            "configs say so because their weights need it; others train them."
        )
    if settings.get("norm_eval", True):
        lines.append(f"{place}.norm_eval=True: all batch norm statistics stay those of pretraining.")
    elif norm.get("type", "BN") == "BN":
        lines.append(
            f"{place}.norm_eval=False with plain BN: the statistics follow the batches of one device, which are small "
            "in detection; MMDetection's configs use norm_eval=True or SyncBN."
        )
    return lines


def _learning_rate(cfg: Any) -> list[str]:
    loader = cfg.get("train_dataloader") or {}
    batch = loader.get("batch_size") if isinstance(loader, dict) else None
    scaling = cfg.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    rate = ((cfg.get("optim_wrapper") or {}).get("optimizer") or {}).get("lr")
    if not batch or not base or rate is None or batch == base or scaling.get("enable"):
        return []
    return [
        f"lr={rate:g} is for a batch of {base}; on one GPU the batch is {batch}. Use {base // batch or 1} GPUs, "
        f"auto_scale_lr.enable=True (MMDetection's --auto-scale-lr), or lr={rate * batch / base:.4g}."
    ]
