"""The losses of this project under their names in mmengine's registry, and their building from nested configs."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import nn

from sosr_det.errors import ConfigError
from sosr_det.losses import (
    ConfidencePenalty,
    CosineSchedule,
    CrossEntropy,
    LinearSchedule,
    OnlineLabelSmoothing,
    SOSRLoss,
)

MODELS.register_module(name=["CrossEntropy", "CrossEntropyLoss"], module=CrossEntropy)
for _criterion in (ConfidencePenalty, OnlineLabelSmoothing, SOSRLoss):
    MODELS.register_module(module=_criterion)

_SCHEDULES = {cls.__name__: cls for cls in (LinearSchedule, CosineSchedule)}


def build_criterion(config: dict, num_classes: int) -> nn.Module:
    """Build a training loss from its config.

    Args:
        config: ``dict(type='SOSRLoss', threshold=0.99, weight=0.5, base=dict(type='ConfidencePenalty'))`` or any loss
            of mmengine's registry. ``threshold`` and ``weight`` may be schedules,
            ``dict(type='LinearSchedule', start=0.0, end=0.5, begin_epoch=0, end_epoch=10)``.
        num_classes: K, given to a criterion that needs it and is not told.

    Raises:
        ConfigError: an unknown schedule.
        ValueError: a value that the criterion refuses.
    """
    config = dict(config)
    if isinstance(config.get("base"), dict):
        config["base"] = build_criterion(config["base"], num_classes)
    for key in ("threshold", "weight"):
        if isinstance(config.get(key), dict):
            config[key] = _build_schedule(key, config[key])
    if config.get("type") == "OnlineLabelSmoothing":
        config.setdefault("num_classes", num_classes)
    # Ours by its class: under another default scope the name may mean another library's (MMDetection has a
    # CrossEntropyLoss), and a run of a detector in the same process leaves its scope behind.
    config["type"] = MODELS.module_dict.get(config.get("type"), config.get("type"))
    return MODELS.build(config)


def _build_schedule(key: str, config: dict) -> LinearSchedule:
    config = dict(config)
    kind = config.pop("type", None)
    if kind not in _SCHEDULES:
        raise ConfigError(
            f"model.loss.{key}: unknown schedule type {kind!r}; known: {', '.join(_SCHEDULES)}."
        )
    return _SCHEDULES[kind](**config)
