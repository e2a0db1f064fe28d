"""One family's trial: swap the backbone in, build, compare, take one step, predict one image."""

from __future__ import annotations

import copy
import math
import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sosr_det.analysis.zoo.adjust import NO_WHOLE_MODEL, adjust
from sosr_det.analysis.zoo.families import zoo_root
from sosr_det.analysis.zoo.result import Trial
from sosr_det.analysis.zoo.swapping import swap
from sosr_det.analysis.zoo.text_encoder import local_text_encoder
from sosr_det.analysis.zoo.tiny_inputs import Needs, needs_of, prediction_batch, training_batch
from sosr_det.engine.backbone.places import live_backbones
from sosr_det.errors import BackboneMismatchError, SosrError
from sosr_det.registry.layout import ENV_ROOT
from sosr_det.transfer.contract import Allowance

DETECTOR_ALONE = "the detector is trained alone, as upstream says; the tracker predicts"

# For a config without one, which upstream only tests.
_DEFAULT_OPTIMIZER = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1e-5}}


class TrialError(SosrError):
    """A family did something that a sweep counts as a failure, though nothing raised."""


class _Stop(Exception):
    """A stage failed; the trial has the reason."""


def run_trial(
    trial: Trial,
    uri: str,
    registry_root: str | Path,
    *,
    image_size: int = 128,
    on_stage: Callable[[Trial, str], None] = lambda trial, stage: None,
) -> Trial:
    """Take one config through all stages, in this process, and fill in what happened.

    Args:
        trial: family and config; changed in place and returned.
        uri: of the backbone, as :func:`sosr_det.engine.backbone.swap.swap_backbone` takes it.
        registry_root: the registry that has it.
        image_size: pixels.
        on_stage: called at the start of each stage, so that someone knows where a process died.
    """

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        on_stage(trial, name)
        start = time.perf_counter()
        try:
            yield
        except Exception as error:  # whatever a family raises is its result
            trial.failed, trial.reason = name, explain(error)
            raise _Stop from error
        trial.seconds[name] = round(time.perf_counter() - start, 2)

    try:
        with _default_registry(registry_root), tempfile.TemporaryDirectory() as scratch:
            with stage("load"):
                _load(trial.config)
            with stage("swap"):
                cfg, report, trial.adjusted = swap(lambda: _load(trial.config), uri, registry_root)
                trial.backbones, trial.extra = report.backbones, report.allowed
                trial.adjusted += adjust(cfg, report.checkpoint, image_size)
                if any(line.startswith("removed ") for line in report.warnings):
                    trial.adjusted.append(NO_WHOLE_MODEL)
                trial.adjusted = list(dict.fromkeys(trial.adjusted))
            with stage("build"):
                trial.adjusted += local_text_encoder(cfg, scratch)
                model = _build(cfg)
            with stage("transfer"):
                trial.tensors, frozen = _check_transfer(model, cfg, trial.extra)
            needs = needs_of(cfg, image_size)
            with stage("train"):
                trial.loss, trial.updated, trained = _train(model, cfg, needs)
                if trained:
                    trial.adjusted.append(trained)
                for watch in frozen:
                    watch.observe()
                    watch.require_unchanged()
            with stage("predict"):
                trial.predicted = _predict(model, prediction_batch(needs))
    except _Stop:
        pass
    return trial


@contextmanager
def _default_registry(root: str | Path) -> Iterator[None]:
    """mmengine resolves ``sosr://`` in ``$SOSR_REGISTRY``."""
    before = os.environ.get(ENV_ROOT)
    os.environ[ENV_ROOT] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENV_ROOT]
        else:
            os.environ[ENV_ROOT] = before


def explain(error: BaseException) -> str:
    """One line: what was raised, its message, and the innermost place outside of torch that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    first_line = (str(error).strip().splitlines() or [""])[0]
    text = first_line if isinstance(error, SosrError) else f"{type(error).__name__}: {first_line}{place}"
    # Nothing of this machine's folders, and no address in memory: results are compared and published.
    return re.sub(r"\S*/site-packages/", "", " ".join(text.split()))[:300]


def _load(config: str) -> Any:
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    # What a user would write into his config: ops without compiled extension, and the sosr:// scheme.
    import_modules_from_strings(["sosr_det.register"])
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(zoo_root() / config)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    return cfg


def _build(cfg: Any) -> Any:
    import torch
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    _find_teacher(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def _find_teacher(cfg: Any) -> None:
    """A distillation config names its teacher's config relative to MMDetection's checkout."""
    teacher = cfg.model.get("teacher_config")
    if isinstance(teacher, str) and teacher.startswith("configs/"):
        cfg.model.teacher_config = str(zoo_root() / teacher.removeprefix("configs/"))


def _check_transfer(model: Any, cfg: Any, allowed: list[str]) -> tuple[int, list]:
    """The start-up contract of a run, on every live backbone: each tensor bit for bit, and the probe's features.

    Returns:
        The number of tensors that match, and a watch over the frozen ones of each backbone.
    """
    from sosr_det.engine.backbone.frozen_tensors import FrozenTensors
    from sosr_det.engine.backbone.live_contract import check_backbone, initial_weights

    found = live_backbones(model)
    if not found:
        raise BackboneMismatchError("the built model has no module called backbone")
    count, watches = 0, []
    for name, module in found.items():
        start = initial_weights(model, name, module)
        if start is None:
            raise BackboneMismatchError(f"the built model's {name} has no checkpoint to load")
        weights = start[1]()
        count += len(check_backbone(model, name, module, weights, Allowance(allowed), cfg).report.matched)
        if "teacher" not in name.split("."):  # which follows the student, frozen or not
            watches.append(FrozenTensors(module, weights.tensors, weights.uri))
    return count, watches


def _train(model: Any, cfg: Any, needs: Needs) -> tuple[float, str, str | None]:
    """One step of the config's own optimizer, on the whole model where it can be trained as a whole."""
    import torch
    from mmengine.logging import MessageHub
    from mmengine.optim import build_optim_wrapper

    torch.manual_seed(0)
    for name in ("epoch", "iter"):  # which the runner tells those models that change with time
        MessageHub.get_current_instance().update_info(name, 0)
    whole, phrase = model, None
    if _is_tested_only(model):
        model, needs, phrase = _its_detector(model, cfg), replace(needs, task="detection"), DETECTOR_ALONE
    model.train()
    optimizer = build_optim_wrapper(model, _first_step_settings(cfg))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    logged = model.train_step(training_batch(needs), optimizer)
    loss = logged["loss"].item()
    if not math.isfinite(loss):
        raise TrialError(f"the loss is {loss}")
    bad = [name for name, p in whole.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise TrialError(f"after one step, {len(bad)} parameters are not finite, {bad[0]} first")
    updated = sum(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    if not updated:
        raise TrialError("one step changed no parameter")
    return round(loss, 4), f"{updated} of {len(before)}", phrase


def _is_tested_only(model: Any) -> bool:
    """A tracker around a detector that is trained before it, apart."""
    return type(model).__name__ in ("DeepSORT", "StrongSORT", "ByteTrack", "OCSORT")


def _its_detector(model: Any, cfg: Any) -> Any:
    from mmdet.registry import MODELS

    # The tracker's preprocessor takes videos; the detector has none, since the tracker feeds it.
    settings = {**cfg.model.data_preprocessor, "type": "DetDataPreprocessor"}
    model.detector.data_preprocessor = MODELS.build(settings)
    return model.detector


def _first_step_settings(cfg: Any) -> Any:
    """The config's optimizer with the learning rate of its first step: most warm up from a thousandth."""
    settings = copy.deepcopy(cfg.get("optim_wrapper") or _DEFAULT_OPTIMIZER)
    schedulers = cfg.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if scheduler.get("type") == "LinearLR" and scheduler.get("begin", 0) == 0:
            settings["optimizer"]["lr"] *= scheduler.get("start_factor", 1 / 3)
    return settings


def _predict(model: Any, batch: dict) -> str:
    import torch

    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        outputs = model.test_step(batch)
    samples = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    if len(samples) != len(batch["inputs"]):
        raise TrialError(f"{len(batch['inputs'])} images gave {len(samples)} predictions")
    return _describe_prediction(samples[0])


def _describe_prediction(sample: Any) -> str:
    import torch

    if hasattr(sample, "video_data_samples"):
        sample = sample.video_data_samples[0]
    found = []
    for name, value in sample.all_items():
        if not name.startswith(("pred", "proposals")):
            continue
        for field, data in value.all_items():
            if isinstance(data, torch.Tensor) and data.is_floating_point() and not torch.isfinite(data).all():
                raise TrialError(f"{name}.{field} of the prediction is not finite")
        found.append(f"{len(value)} {name}" if hasattr(value, "__len__") else name)
    if not found:
        raise TrialError("the prediction holds neither instances nor maps")
    return ", ".join(sorted(found, key=lambda text: text.split()[-1]))
