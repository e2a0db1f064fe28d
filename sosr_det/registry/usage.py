"""The lines of a config that put an entry to use in MMDetection. From checked fields only: safe to paste."""

from __future__ import annotations

import re

from sosr_det.registry.entry import Entry
from sosr_det.registry.manifest import Preprocessing


def mmdetection_depth(entry: Entry) -> int | None:
    """``depth`` of MMDetection's ResNet that holds these tensors; None where it has no such backbone."""
    arch = entry.manifest.arch
    found = re.fullmatch(r"resnet(18|34|50|101|152)", arch.name)
    return int(found[1]) if found and arch.library in ("torchvision", "timm", "mmdet", "mmpretrain") else None


def mmdetection_lines(entry: Entry, uri: str | None = None) -> list[str]:
    """Lines for an MMDetection config; empty for a backbone that its ResNet cannot hold.

    A backbone goes under ``init_cfg``, a detector into ``load_from``; either way the preprocessing goes along.
    """
    uri = uri or entry.uri
    preprocessor = f"data_preprocessor=dict({preprocessor_arguments(entry.manifest.preprocessing)})"
    lines = ['custom_imports = dict(imports=["sosr_det.register"])']
    if entry.manifest.kind == "detector":
        return [*lines, f"model = dict({preprocessor})", f'load_from = "{uri}"']
    depth = mmdetection_depth(entry)
    if depth is None:
        return []
    style = f'style="{entry.manifest.arch.style}", ' if entry.manifest.arch.style and depth >= 50 else ""
    # No custom_hooks: they would replace those of the config, and the import adds the check by itself.
    return [
        f"{lines[0]}  # compares what was loaded with the entry",
        "model = dict(",
        f"    {preprocessor},",
        f'    backbone=dict(depth={depth}, {style}init_cfg=dict(type="Pretrained", checkpoint="{uri}")),',
        ")",
    ]


def preprocessor_arguments(preprocessing: Preprocessing) -> str:
    """Arguments of MMDetection's ``DetDataPreprocessor``, whose mean and std are on the 0-255 scale."""
    factor = 1 if preprocessing.scale == "0-255" else 255
    mean, std = (
        [round(factor * value, 6) for value in values] for values in (preprocessing.mean, preprocessing.std)
    )
    return f"mean={mean}, std={std}, bgr_to_rgb={preprocessing.channel_order == 'rgb'}"


def mmdetection_command(entry: Entry, uri: str | None = None) -> str | None:
    """The command that uses an entry with a config as it is; None for a backbone that MMDetection cannot hold."""
    uri = uri or entry.uri
    if entry.manifest.kind == "detector":
        return f"sosr-det test CONFIG {uri}"
    return f"sosr-det train CONFIG --backbone {uri}" if mmdetection_depth(entry) else None
