"""What is known about a checkpoint besides its tensors, and from where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sosr_det.registry.manifest import Preprocessing


@dataclass
class Evidence:
    """What a source says about itself. None and empty stand for "it does not say".

    Attributes:
        project: who wrote the file, in words ("torchvision", "timm 1.0", "OpenMMLab (mmdet 3.3.0)").
        why: how that is known.
        arch: as :func:`sosr_det.models.build_backbone` takes it.
        style: "pytorch" or "caffe", where a bottleneck strides.
        style_why: how that is known.
        preprocessing: of the pixels.
        preprocessing_why: how that is known.
        head_names: names of the classifier's modules, where the project names them.
        classes: of the classifier that the backbone was trained under.
        metrics: as published, in percent.
        data: name of the training data.
        recipe: ``config_name`` and ``config_text``, where the file holds its config.
        assumptions: what was taken for granted, one sentence each; they go into the manifest's notes.
    """

    project: str = "unknown"
    why: str = "nothing in the file says who wrote it"
    arch: str | None = None
    style: str | None = None
    style_why: str = ""
    preprocessing: Preprocessing | None = None
    preprocessing_why: str = ""
    head_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    license: str | None = None
    license_why: str = ""
    data: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    assumptions: list[str] = field(default_factory=list)
