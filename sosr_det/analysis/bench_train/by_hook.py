"""How long each of the engine's hooks takes in a step."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

_POINTS = ("before_train_iter", "after_train_iter")


class HookMeter:
    """Adds up the processor time of this thread in every hook's calls before and after a step.

    Processor time, as a busy machine interrupts a hook as it interrupts everything else. Work that a hook only starts
    on a GPU is not in it; waiting for the GPU is.
    """

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._num_steps = 0

    def watch(self, runner: Any, besides: Any = None) -> None:
        """Measure a runner's hooks from now on, except for one."""
        for hook in runner.hooks:
            if hook is besides:
                continue
            for point in _POINTS:
                setattr(hook, point, self._measured(type(hook).__name__, getattr(hook, point)))

    def step(self) -> None:
        """A step is over."""
        self._num_steps += 1

    def ms_per_step(self) -> dict[str, float]:
        """Class of the hook -> milliseconds per step, the most expensive first."""
        return {
            name: 1000 * seconds / max(self._num_steps, 1) for name, seconds in self._seconds.most_common()
        }

    def _measured(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def measured(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                self._seconds[name] += time.thread_time() - began

        return measured
