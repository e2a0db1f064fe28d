"""Faults of processes, to be arranged in a forked process before it trains: nothing here is undone."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader

from sosr_det.engine.loops import ExactEpochLoop, ExactIterLoop
from sosr_det.engine.loops.stop_consensus import StopConsensus, Wish

_IMPORTED = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.signal",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
    "torchvision.transforms.v2",
    "sosr_det.analysis.bench_faults.network",
    "sosr_det.engine.train",
)


def import_what_trainings_import() -> None:
    """In the process that is forked, once: libraries that a training would otherwise import each time (seconds)."""
    for name in _IMPORTED:
        importlib.import_module(name)


def die() -> None:
    """SIGKILL, as from the system's out-of-memory killer or a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, action: Callable[[Any], None], when: str = "after") -> None:
    """Call ``action(runner)`` at a step of the whole run, counted from 1, each time it is made.

    Args:
        step: from 1.
        action: gets the Runner.
        when: ``before`` the step, when its batch is there; ``inside``, between gradients and update; ``after`` it.
    """
    for loop in (ExactEpochLoop, ExactIterLoop):
        loop.run_iter = _watched(loop.run_iter, step, action, when)


def _watched(run_iter: Callable, step: int, action: Callable[[Any], None], when: str) -> Callable:
    def watched(self: Any, *args: Any) -> None:
        due = self._iter + 1 == step
        if due and when == "before":
            action(self.runner)
        if due and when == "inside":
            inner = self.runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: action(self.runner))
        run_iter(self, *args)
        if due and when == "inside":
            inner.remove()
        if due and when == "after":
            action(self.runner)

    return watched


def die_at_step(step: int, when: str = "after", save_each: int = 0) -> None:
    """SIGKILL at a step, and saves every ``save_each`` steps in between; see :func:`at_step`."""
    save_each_steps(save_each)
    at_step(step, lambda runner: die(), when)


def save_each_steps(steps: int) -> None:
    """Save in the middle of the epochs too, each time so many steps were made; 0 leaves it as it is."""
    if not steps:
        return
    before, count = StopConsensus.after_step, [0]

    def after_step(self: StopConsensus) -> Wish:
        wish = before(self)
        count[0] += 1
        return Wish(wish.stop, wish.save or count[0] % steps == 0)

    StopConsensus.after_step = after_step


_iterators: list[Any] = []


def remember_loaders() -> None:
    """So that :func:`kill_worker` finds the worker processes of the newest iteration, of any loader."""
    make = DataLoader._get_iterator

    def remembered(self: DataLoader) -> Any:
        iterator = make(self)
        _iterators.append((self, iterator))
        return iterator

    DataLoader._get_iterator = remembered


def kill_worker(of: Any = None) -> None:
    """SIGKILL one living worker process of a loader, by default the newest that has one, and wait until it is gone."""
    for loader, iterator in reversed(_iterators):
        if of is not None and loader is not getattr(of, "loader", of):
            continue
        for process in getattr(iterator, "_workers", ()):
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                # Not join: torch learns of the death through SIGCHLD, as it would have.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                return
    raise RuntimeError("no worker process is alive")


def kill_workers_at_steps(steps: Sequence[int], when: str = "before") -> None:
    """A worker of the training loader is killed at each of these steps of the run."""
    remember_loaders()
    for step in steps:
        at_step(step, lambda runner: kill_worker(), when)
