"""What a training shows: nothing, a line now and then, or (in :mod:`sosr_det.engine.telemetry.bar`) a progress bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sosr_det.engine.telemetry.wording import duration, metric_list, rate, step_details
from sosr_det.errors import ConfigError

CHOICES = ("auto", "bar", "lines", "none")


@dataclass(frozen=True)
class Place:
    """Where a training is.

    Attributes:
        epoch: counted from 1; 0 in a run by iterations.
        epochs: of the whole run; 0 in a run by iterations.
        step: within the epoch, counted from 1; in a run by iterations of the whole run.
        steps: in the epoch, or in the run.
    """

    epoch: int
    epochs: int
    step: int
    steps: int

    def __str__(self) -> str:
        of_epoch = f"epoch {self.epoch}/{self.epochs} " if self.epochs else ""
        return f"{of_epoch}step {self.step}/{self.steps}"


class NoDisplay:
    """Shows nothing."""

    def start(self, log: str) -> None:
        """The training is about to begin; ``log`` is its full log."""

    def step(self, place: Place) -> None:
        """A step was made."""

    def train(self, place: Place, record: Mapping[str, Any]) -> None:
        """A record of kind ``train`` was written."""

    def epoch(self, place: Place, record: Mapping[str, Any]) -> None:
        """A record of kind ``epoch`` was written."""

    def validation_step(self, step: int, steps: int) -> None:
        """``step`` of ``steps`` batches are validated."""

    def validated(self, place: Place, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """A record of kind ``val`` was written."""

    def close(self) -> None:
        """The run ended, or failed: the terminal is to be as it was."""


class LineDisplay(NoDisplay):
    """One short line for each log interval, trained epoch and validation.

    Args:
        say: takes a line; default: print it, at once.
        now: the time of day at the beginning of lines; given by tests.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        now: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._say = say or (lambda line: print(line, flush=True))
        self._now = now

    def start(self, log: str) -> None:
        self._say(start_line(log))

    def train(self, place: Place, record: Mapping[str, Any]) -> None:
        left = record.get("eta_seconds")
        parts = [*step_details(record), *([] if left is None else [f"{duration(left)} left"])]
        self._say(f"{self._now()} {place}: {', '.join(parts)}")

    def epoch(self, place: Place, record: Mapping[str, Any]) -> None:
        self._say(epoch_line(self._now(), place, record))

    def validated(self, place: Place, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        self._say(validation_line(self._now(), place, record, metrics))


def start_line(log: str) -> str:
    return f"full log: {log}"


def epoch_line(now: str, place: Place, record: Mapping[str, Any]) -> str:
    parts = [duration(record["seconds"]), rate(record.get("img_per_s"))]
    if record.get("data_wait_fraction") is not None:
        parts.append(f"data wait {record['data_wait_fraction']:.0%}")
    return f"{now} epoch {place.epoch}/{place.epochs} trained: {', '.join(parts)}"


def validation_line(now: str, place: Place, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    where = f"epoch {place.epoch}/{place.epochs}" if place.epochs else str(place)
    return f"{now} {where} validated: {metric_list(metrics) or 'no metrics'} ({duration(record['seconds'])})"


def attach_display(runner: Any, choice: str = "auto") -> None:
    """Have the run's ``MetricsHook`` show it; see :func:`make_display`."""
    for hook in runner.hooks:
        if isinstance(getattr(hook, "display", None), NoDisplay):
            hook.display = make_display(choice)


def make_display(choice: str = "auto") -> NoDisplay:
    """The display for this process; processes but the first one of a distributed run show nothing.

    Args:
        choice: ``auto``: a bar where standard output is a terminal that can move its cursor, else lines; ``bar``,
            ``lines``, ``none``.

    Raises:
        ConfigError: another choice.
    """
    from mmengine.dist import is_main_process

    if choice not in CHOICES:
        raise ConfigError(f"--progress must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == "none" or not is_main_process():
        return NoDisplay()
    able = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    if choice == "bar" or (choice == "auto" and able):
        from sosr_det.engine.telemetry.bar import BarDisplay

        return BarDisplay()
    return LineDisplay()
