"""The hooks that every run carries, whichever config it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError


def add_hooks(cfg: Any, options: TrainOptions, backbone: dict | None, settings: dict[str, Any]) -> None:
    """Add them to ``cfg.custom_hooks``; hooks that the config names itself stay as they are.

    Raises:
        ConfigError: ``--dynamics`` for a detector.
    """
    hooks = list(cfg.get("custom_hooks") or [])
    present = {hook.get("type") for hook in hooks}
    for hook in (
        "DataContractHook",
        "BackboneContractHook",
        "DivergenceHook",
        "GrowingHistoryHook",
        "LossEpochHook",
        "RankZeroBuffersHook",
        "MetricsHook",
        "TrainLossPlateauHook",
        "PlainCheckpointHook",
    ):
        if hook not in present:
            hooks.append({"type": hook})
    allowed = (backbone or {}).get("allowed") or options.allow
    for hook in hooks:
        if hook.get("type") == "DataContractHook":
            hook["select_on"] = settings["selection"]["on"]
        if hook.get("type") == "BackboneContractHook" and allowed:
            hook["allow"] = [*dict.fromkeys([*hook.get("allow", ()), *allowed])]
    if options.dynamics and "TrainingDynamicsHook" not in present:
        if cfg.get("stage", "detection") == "detection":
            raise ConfigError(
                "--dynamics records how a classifier learns; a detection run has no such figures."
            )
        hooks.append({"type": "TrainingDynamicsHook"})
    hooks.append(
        {
            "type": "RunRecordHook",
            "stage": cfg.get("stage", "detection"),
            "config_name": Path(options.config).stem,
            "backbone": backbone,
            "replace_run": options.overwrite,
            "settings": settings,
        }
    )
    hooks.append({"type": "DueValidationHook"})  # reads what RunRecordHook has just written
    cfg.custom_hooks = hooks
