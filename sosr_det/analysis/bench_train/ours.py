"""Our engine: a real ``sosr-det train`` of a shipped recipe on the work's batches, with hooks, logs and run record."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS, HOOKS

from sosr_det.analysis.bench_train.by_hook import HookMeter
from sosr_det.analysis.bench_train.turns import AllRoundsDone, Turns
from sosr_det.analysis.bench_train.work import Work, build_network, make_batches
from sosr_det.data.in_memory import CollatedBatch
from sosr_det.engine.configs import load_config
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions

# What the config of the run cannot hold: it is a file.
_active: dict[str, Any] = {}


def train_in_turns(
    work: Work,
    turns: Turns,
    folder: Path,
    extra_hooks: Sequence[dict] = (),
    meter: HookMeter | None = None,
) -> torch.nn.Module:
    """Train until the turns are over; returns the trained classifier.

    Args:
        folder: an existing empty folder for the config and the run.
        extra_hooks: configs of hooks to add to those that every run has.
        meter: measures the hooks, which adds a little to each step.

    Raises:
        SosrError: as :func:`sosr_det.engine.train.run_training`.
    """
    path = folder / f"bench_train_{work.name}.json"
    path.write_text(json.dumps(_config(work, turns.host_steps, extra_hooks)))
    hook = BenchTurnsHook()
    _active.update(work=work, turns=turns, hook=hook, meter=meter)
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            run_training(TrainOptions(str(path), work_dir=folder / "run", publish=False))
    except AllRoundsDone:
        return hook.network
    finally:
        _active.clear()
    raise RuntimeError(f"the run ended before its turns were over:\n{log.getvalue()[-2000:]}")


def _config(work: Work, num_steps: int, extra_hooks: Sequence[dict]) -> dict[str, Any]:
    """The recipe with the work's data and optimizer, and without validation."""
    cfg = load_config(work.config)
    cfg.pop("publish", None)
    for key in ("val", "test"):
        for part in ("dataloader", "cfg", "evaluator"):
            cfg[f"{key}_{part}"] = None
    cfg.model.num_classes = work.num_classes
    cfg.model.data_preprocessor.update(mean=list(work.mean), std=list(work.std))
    cfg.train_dataloader = {
        "batch_size": work.batch_size,
        "num_workers": 0,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "already_collated"},
        "dataset": {"type": "BenchBatches", "num_steps": num_steps + 1},
    }
    cfg.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 1}
    cfg.optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "SGD",
            "lr": work.learning_rate,
            "momentum": work.momentum,
            "weight_decay": work.weight_decay,
        },
    }
    cfg.param_scheduler = [{"type": "MultiStepLR", "by_epoch": True, "milestones": [30, 60], "gamma": 0.1}]
    # The others compute so; what the device would choose is not the loop's cost.
    cfg.acceleration = {
        "precision": "fp32",
        "channels_last": False,
        "compile": False,
        "fused_optimizer": False,
    }
    cfg.auto_scale_lr = {"enable": False, "base_batch_size": work.batch_size}
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks = [*extra_hooks, {"type": "BenchTurnsHook"}]
    return cfg.to_dict()


@DATASETS.register_module()
class BenchBatches(torch.utils.data.Dataset):
    """The work's finished batches for ``num_steps`` steps: loading costs next to nothing."""

    def __init__(self, num_steps: int) -> None:
        work: Work = _active["work"]
        self._batches = [CollatedBatch(inputs=images, labels=labels) for images, labels in make_batches(work)]
        self._size, self._num_steps = work.batch_size, num_steps
        self.metainfo = {"classes": tuple(str(number) for number in range(work.num_classes))}

    def __len__(self) -> int:
        return self._size * self._num_steps

    def __getitems__(self, indices: Sequence[int]) -> CollatedBatch:
        return self._batches[indices[0] // self._size % len(self._batches)]


@HOOKS.register_module()
class BenchTurnsHook(Hook):
    """Starts from the weights of all contenders, and lets the others take their turns."""

    priority = "LOWEST"

    def __new__(cls) -> BenchTurnsHook:
        """The hook that :func:`train_in_turns` made, where a config asks for one: it is asked for the network later."""
        return _active.get("hook") or super().__new__(cls)

    def before_train(self, runner) -> None:
        self.network = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.network.load_state_dict(build_network(_active["work"]).state_dict())
        if _active["meter"] is not None:
            _active["meter"].watch(runner, besides=self)

    def before_train_epoch(self, runner) -> None:
        _active["turns"].begin()

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if _active["meter"] is not None:
            _active["meter"].step()
        _active["turns"].host_stepped()
