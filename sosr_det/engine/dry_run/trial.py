"""Some real steps of a built training: the loop itself runs, and is stopped after them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from sosr_det.engine.telemetry.clock import Span
from sosr_det.engine.telemetry.hook import MetricsHook
from sosr_det.errors import CheckpointError

FEWEST_STEPS, MOST_STEPS, SECONDS = 3, 12, 20.0  # timed ones, after the first
MOST_BATCHES = 4  # of the validation


class EnoughSeen(Exception):
    """Ends a loop whose steps were seen."""


class TrialHook(Hook):
    """Counts and times steps, and ends the loop when there are enough.

    Attributes:
        steps: training steps made, the first one included.
        first_loss, last_loss: of these steps.
        validation_seconds: one number for each batch that was validated.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.steps = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.validation_seconds: list[float] = []
        self._began = self._batch_began = 0.0

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.steps += 1
        loss = (outputs or {}).get("loss")
        if loss is not None:
            self.last_loss = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        if self.steps == 1:
            self.first_loss = self.last_loss
            self._began = time.perf_counter()
        timed = self.steps - 1
        long_enough = timed >= FEWEST_STEPS and time.perf_counter() - self._began > SECONDS
        if timed >= MOST_STEPS or long_enough or batch_idx + 1 == len(runner.train_dataloader):
            raise EnoughSeen

    def before_val_epoch(self, runner) -> None:
        self._batch_began = time.perf_counter()

    def after_val_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self.validation_seconds.append(now - self._batch_began)
        self._batch_began = now
        if batch_idx + 1 == min(MOST_BATCHES, len(runner.val_dataloader)):
            raise EnoughSeen


@dataclass
class SavedState:
    """A checkpoint of the trial.

    Attributes:
        path: of the file.
        size_bytes: of the file.
        weights_bytes: of the model alone.
        seconds: that saving took.
    """

    path: Path
    size_bytes: int
    weights_bytes: int
    seconds: float


def train_steps(runner: Any, trial: TrialHook) -> Span:
    """Set up and run the training until ``trial`` has seen enough.

    Returns:
        The timed steps: all but the first one.

    Raises:
        Exception: whatever the training raises.
    """
    try:
        runner.train()
    except EnoughSeen:
        # The loop was left within its step: it counts it afterwards.
        runner.train_loop._iter += 1
        if hasattr(runner.train_loop, "place"):
            runner.train_loop.place.batches_done += 1
    hook = next(hook for hook in runner.hooks if isinstance(hook, MetricsHook))
    return hook.steady


def save(runner: Any, folder: Path) -> SavedState:
    """Save as the training would between two steps.

    Raises:
        CheckpointError: it cannot be written.
    """
    began = time.perf_counter()
    hook = next((hook for hook in runner.hooks if hasattr(hook, "save_mid_epoch")), None)
    if hook is not None:
        path = hook.save_mid_epoch(runner)
    else:
        path = folder / "trial.pth"
        runner.save_checkpoint(
            str(folder), path.name, meta={"epoch": runner.epoch, "iter": runner.iter}, by_epoch=False
        )
    _hand_out(path)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return SavedState(path, path.stat().st_size, weights, time.perf_counter() - began)


def _hand_out(path: Path) -> None:
    """One process saves, and the temporary folder is each one's own: the others may be on other machines."""
    if get_world_size() == 1:
        return
    files = path.parent.glob(f"{path.name}*") if is_main_process() else ()
    saved = [{file.name: file.read_bytes() for file in files}]
    broadcast_object_list(saved)
    if not is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in saved[0].items():
            (path.parent / name).write_bytes(content)


def resume(runner: Any, saved: SavedState) -> None:
    """Load the checkpoint into a training whose state was lost, and compare.

    Raises:
        CheckpointError: what came back is not what was saved.
    """
    before, step = _digests(runner), runner.iter
    with torch.no_grad():
        for value in runner.model.state_dict().values():
            value.zero_()
    for wrapper in _optimizers(runner):
        wrapper.state.clear()
    runner._resume, runner.resume_plan = True, None
    with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints the path
        runner.resume(str(saved.path))
    after = _digests(runner)
    for part, digest in before.items():
        if after[part] != digest:
            raise CheckpointError(f"after saving and resuming, the {part} is not what it was.")
    if runner.iter != step:
        raise CheckpointError(
            f"after saving and resuming, the training is at step {runner.iter}, not {step}."
        )


def validate(runner: Any) -> None:
    """Validate some batches. The metrics are not computed: they would be of a part of the data."""
    with contextlib.suppress(EnoughSeen):
        runner.val_loop.run()


def _digests(runner: Any) -> dict[str, str]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    # Statistics of batch norm are each process's own until the next step, which begins with the first one's.
    state = model.state_dict() if is_main_process() else dict(model.named_parameters())
    return {
        "model": _digest(state),
        "state of the optimizer": _digest([each.state_dict() for each in _optimizers(runner)]),
    }


def _optimizers(runner: Any) -> list[torch.optim.Optimizer]:
    wrapper = runner.optim_wrapper
    several = getattr(wrapper, "optim_wrappers", None)
    return [each.optimizer for each in several.values()] if several else [wrapper.optimizer]


def _digest(value: Any) -> str:
    sha = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            sha.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(node, dict):
            for key, inner in node.items():
                sha.update(repr(key).encode())
                add(inner)
        elif isinstance(node, (list, tuple)):
            for inner in node:
                add(inner)
        else:
            sha.update(repr(node).encode())

    add(value)
    return sha.hexdigest()
