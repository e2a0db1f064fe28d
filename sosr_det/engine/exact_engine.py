"""Puts this project's loops and checkpoint hook in the place of mmengine's, in any config."""

from __future__ import annotations

from typing import Any

from sosr_det.engine.configs import bare_type

_LOOPS = {"EpochBasedTrainLoop": "ExactEpochLoop", "IterBasedTrainLoop": "ExactIterLoop"}
_CHECKPOINTS = {"CheckpointHook": "AtomicCheckpointHook"}

# Ours and theirs train alike; a run that was begun with the one may go on with the other.
EQUIVALENT_TYPES = [{theirs, ours} for theirs, ours in {**_LOOPS, **_CHECKPOINTS}.items()]


def use_exact_engine(cfg: Any) -> None:
    """Change the types in ``cfg``, in place. A loop or hook of another type, such as a user's own, stays as it is."""
    train_cfg = cfg.get("train_cfg")
    if isinstance(train_cfg, dict):
        if train_cfg.get("type") is None:  # mmengine's older way to choose
            by_epoch = train_cfg.pop("by_epoch", True)
            train_cfg["type"] = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
        train_cfg["type"] = _LOOPS.get(bare_type(train_cfg["type"]), train_cfg["type"])
    hooks = cfg.get("default_hooks")
    if isinstance(hooks, dict):
        if "checkpoint" not in hooks:  # mmengine's default
            hooks["checkpoint"] = {"type": "CheckpointHook", "interval": 1}
        _exchange(hooks["checkpoint"])
    elif hooks is None:
        cfg.default_hooks = {"checkpoint": {"type": "AtomicCheckpointHook", "interval": 1}}
    for hook in cfg.get("custom_hooks") or []:
        _exchange(hook)


def _exchange(hook: Any) -> None:
    if isinstance(hook, dict):
        kind = bare_type(hook.get("type"))
        if kind in _CHECKPOINTS:
            hook["type"] = _CHECKPOINTS[kind]
