"""The progress bar of a training on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from sosr_det.engine.telemetry.display import NoDisplay, Place, epoch_line, start_line, validation_line
from sosr_det.engine.telemetry.wording import duration, step_details

_REFRESH_S = 0.5  # drawing takes some milliseconds: more often would be felt in small networks' steps


class BarDisplay(NoDisplay):
    """A bar for the run's epochs, one for the steps of the epoch or validation, and the latest figures below.

    What is printed meanwhile appears above the bars; a line stays for every trained and validated epoch. The bars are
    drawn between steps, by no thread of their own.

    Args:
        console: default: standard output.
        clock: seconds; given by tests.
        now: the time of day at the beginning of lines.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._console = console or Console(highlight=False, soft_wrap=False)
        self._clock, self._now = clock, now
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            auto_refresh=False,
            console=self._console,
            expand=True,
        )
        self._run = self._bars.add_task("", total=None, note="")
        self._part = self._bars.add_task("", total=None, note="")
        self._details = Text("")
        self._live: Live | None = None
        self._drawn = float("-inf")

    def start(self, log: str) -> None:
        self._console.print(Text(start_line(log)), soft_wrap=True)

    def step(self, place: Place) -> None:
        self._move(place)
        self._draw()

    def train(self, place: Place, record: Mapping[str, Any]) -> None:
        self._move(place)
        self._details = Text("  ".join(step_details(record)))
        left = record.get("eta_seconds")
        self._bars.update(self._run, note="" if left is None else f"{duration(left)} left")
        self._draw()

    def epoch(self, place: Place, record: Mapping[str, Any]) -> None:
        self._start().console.print(Text(epoch_line(self._now(), place, record)))

    def validation_step(self, step: int, steps: int) -> None:
        self._bars.update(self._part, description=f"validation {step}/{steps}", completed=step, total=steps)
        self._draw()

    def validated(self, place: Place, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        self._start().console.print(Text(validation_line(self._now(), place, record, metrics)))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _move(self, place: Place) -> None:
        if place.epochs:
            done = place.epoch - 1 + place.step / max(place.steps, 1)
            name = f"epoch {place.epoch}/{place.epochs}"
            self._bars.update(self._run, description=name, completed=done, total=place.epochs)
        else:
            self._bars.update(self._run, description="run", completed=place.step, total=place.steps)
        name = f"step {place.step}/{place.steps}"
        self._bars.update(self._part, description=name, completed=place.step, total=place.steps)

    def _start(self) -> Live:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self._live

    def _draw(self) -> None:
        live = self._start()
        now = self._clock()
        if now - self._drawn >= _REFRESH_S:
            self._drawn = now
            live.update(Group(self._bars.get_renderable(), self._details), refresh=True)
