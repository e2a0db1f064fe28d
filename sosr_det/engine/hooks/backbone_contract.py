"""Refuses to train on a backbone that is not what its checkpoint holds."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader

from sosr_det.errors import BackboneMismatchError
from sosr_det.registry.manifest import Manifest
from sosr_det.transfer.contract import check_arch, check_preprocessing, compare_backbone, require_match


@HOOKS.register_module()
class BackboneContractHook(Hook):
    """Compares the live backbone with its source, tensor by tensor, before the first step.

    Runs in ``before_train``: after mmengine has initialised the weights (``PretrainedInit`` is never strict
    and only logs what it could not load) and before any update. A resumed run is left alone: its backbone
    has moved on. Works for any model with a ``backbone`` whose ``init_cfg`` is ``Pretrained``.

    Raises (in ``before_train``):
        BackboneMismatchError: anything but a full match with only the classifier head left over, or a backbone
            with frozen stages and no pretrained weights.
        ConfigError: the registry entry was trained with another depth, stride style or preprocessing.
    """

    priority = "VERY_LOW"

    def before_train(self, runner) -> None:
        if runner.iter > 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, "backbone", None)
        if backbone is None:
            return
        name, source = _source(runner, model)
        if source is None:
            _refuse_frozen_random(backbone)
            print_log("backbone: random initialisation, no checkpoint to compare with", logger="current")
            return
        report = compare_backbone(backbone.state_dict(), source, name)
        runner.message_hub.update_info("backbone_transfer", report.summary())
        require_match(report)
        if is_main_process():
            print_log(f"contract kept: {report.describe()}", logger="current")


def _source(runner: Any, model: Any) -> tuple[str, dict | None]:
    """Name and tensors of what the backbone should hold: `load_from`, which comes last, else its own `init_cfg`."""
    load_from = getattr(runner, "_load_from", None)
    if load_from is not None:
        state = _state_dict(CheckpointLoader.load_checkpoint(load_from, map_location="cpu", logger="silent"))
        return load_from, {
            k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")
        }
    init_cfg = pretrained_checkpoint(model)
    if init_cfg is None:
        return "", None
    loaded = CheckpointLoader.load_checkpoint(init_cfg["checkpoint"], map_location="cpu", logger="silent")
    manifest = (loaded.get("meta") or {}).get("manifest") if isinstance(loaded, dict) else None
    if manifest is not None:
        model_cfg = runner.cfg.get("model") or {}
        entry = Manifest.from_dict(manifest)
        check_arch(model_cfg.get("backbone") or {}, entry.arch, init_cfg["checkpoint"])
        check_preprocessing(
            model_cfg.get("data_preprocessor") or {}, entry.preprocessing, init_cfg["checkpoint"]
        )
    state = _state_dict(loaded)
    prefix = init_cfg.get("prefix")
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return init_cfg["checkpoint"], state


def _state_dict(loaded: Any) -> dict:
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    # mmengine strips this prefix itself when it loads a whole file.
    return {k.removeprefix("module."): v for k, v in state.items()}


def pretrained_checkpoint(model: Any) -> dict | None:
    """The ``Pretrained`` init config of ``model.backbone``, or None."""
    for init_cfg in (getattr(model, "backbone_init_cfg", None), getattr(model.backbone, "init_cfg", None)):
        candidates = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
        for candidate in candidates:
            if isinstance(candidate, dict) and candidate.get("type") in ("Pretrained", "PretrainedInit"):
                return candidate
    return None


def _refuse_frozen_random(backbone: Any) -> None:
    frozen = getattr(backbone, "frozen_stages", -1)
    if frozen >= 0 or getattr(backbone, "norm_eval", False):
        raise BackboneMismatchError(
            f"the backbone has random weights but frozen_stages={frozen} and "
            f"norm_eval={getattr(backbone, 'norm_eval', False)}: frozen random layers cannot learn. "
            "Give it a checkpoint (--backbone sosr://NAME), or train from scratch with --backbone random, "
            "which unfreezes everything."
        )
