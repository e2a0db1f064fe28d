"""Stops a run whose loss is no longer a number, and tells which images it was trained on last."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from sosr_det.data.unreadable import image_name
from sosr_det.engine.checkpoints.atomic_file import write_text
from sosr_det.engine.checkpoints.choice import choose_checkpoint
from sosr_det.errors import SosrError, TrainingDivergedError

FILE_NAME = "diverged.json"


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Raises at the first step with a NaN or infinite loss, before a checkpoint of it can be written.

    ``diverged.json`` in the run's folder (``diverged-rankN.json`` of another process than the first) then tells
    ``epoch`` and ``step`` (from 1), ``step_of_run`` (from 1), every term of the ``loss`` (those that are no numbers as
    text: ``"nan"``, ``"inf"``), ``lr``, the ``rank``, the batch's ``indices`` into the data set and its ``samples``'
    names, and ``last_good_checkpoint``, the newest whole one.

    Costs no extra synchronisation: mmengine's own logging reads the loss of every step.
    """

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        terms = {name: _number(value) for name, value in (outputs or {}).items() if "loss" in name}
        loss = terms.get("loss")
        if loss is None or math.isfinite(loss):
            return
        told = self._told(runner, batch_idx, data_batch, terms)
        raise TrainingDivergedError(
            f"the loss is {loss} at epoch {runner.epoch + 1}, step {batch_idx + 1} ({terms}). Training diverged; "
            f"earlier checkpoints are intact.{told} Try a smaller learning rate, warm-up or gradient clipping."
        )

    @staticmethod
    def _told(runner: Any, batch_idx: int, data_batch: Any, terms: dict[str, float]) -> str:
        """Write the file; a sentence about it. Nothing that fails here may hide the divergence."""
        rank = get_rank()
        path = Path(runner.work_dir) / (FILE_NAME if rank == 0 else f"diverged-rank{rank}.json")
        good = _last_good(Path(runner.work_dir))
        indices = _indices(runner, batch_idx)
        told = {
            "epoch": runner.epoch + 1,
            "step": batch_idx + 1,
            "step_of_run": runner.iter + 1,
            "loss": {name: value if math.isfinite(value) else str(value) for name, value in terms.items()},
            "lr": _learning_rate(runner),
            "rank": rank,
            "indices": indices,
            "samples": _names(runner, data_batch, indices),
            "last_good_checkpoint": good,
        }
        with suppress(OSError, TypeError, ValueError):
            write_text(path, json.dumps(told, indent=1, allow_nan=False) + "\n")
            return f" {path} has that step's images" + (
                f", and {good} is the last good checkpoint." if good else "."
            )
        return ""


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def _learning_rate(runner: Any) -> float | None:
    with suppress(Exception):  # optimizers of other people
        rates = runner.optim_wrapper.get_lr()
        return next((float(each[0]) for each in rates.values()), None)
    return None


def _last_good(folder: Path) -> str | None:
    with suppress(SosrError, OSError):
        choice = choose_checkpoint(folder)
        return choice.path.name if choice else None
    return None


def _indices(runner: Any, batch_idx: int) -> list[int] | None:
    """Of the batch of this step and process; None with another training loop than this project's."""
    find = getattr(runner.train_loop, "batch_indices", None)
    with suppress(Exception):
        return None if find is None else find(batch_idx)
    return None


def _names(runner: Any, data_batch: Any, indices: list[int] | None) -> list[str]:
    """Paths where they are known: MMDetection's samples carry them, this project's data sets are asked."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
    paths = [getattr(each, "img_path", None) for each in samples or ()]
    if paths and all(isinstance(path, str) for path in paths):
        return paths
    with suppress(Exception):  # a data set of other people
        return [image_name(runner.train_dataloader.dataset, index) for index in indices or ()]
    return []
