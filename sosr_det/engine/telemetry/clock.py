"""Where the time of a training goes: waiting for data, everything else, and how much is left of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Span:
    """What happened between two moments of the training; validation is not in it.

    Attributes:
        steps: training steps that ended.
        images: images of all processes in them.
        seconds: wall time.
        wait_seconds: of these, the time that the training waited for the data loader.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def img_per_s(self) -> float | None:
        """Images of all processes per second of wall time; None without images."""
        return self.images / self.seconds if self.images and self.seconds > 0 else None

    @property
    def data_wait_fraction(self) -> float | None:
        """0: the next batch was always there; 1: the training did nothing but wait. None before the first step."""
        return min(1.0, self.wait_seconds / self.seconds) if self.steps and self.seconds > 0 else None

    @property
    def seconds_per_step(self) -> float | None:
        """Wall time of a step with its data loading; None before the first step."""
        return self.seconds / self.steps if self.steps else None


class StepClock:
    """Splits the wall time of training.

    ``begin`` an epoch; then, in each step, ``enter`` when the batch has come, ``step`` when it was trained on,
    ``leave`` when all that belongs to the step is done and the next batch is asked for. What lies between ``leave``
    (or ``begin``) and ``enter`` is waiting for data.

    Args:
        clock: seconds, as ``time.perf_counter``; given by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._mark = clock()
        self._interval, self._epoch, self._run = Span(), Span(), Span()
        self._warm = False

    def begin(self) -> None:
        """An epoch begins: what happened since the last step, such as validation, counts nowhere."""
        self.skip()
        self._epoch = Span()

    def skip(self) -> None:
        """What happened since the last step, such as validation, counts nowhere."""
        self._mark = self._clock()

    def enter(self) -> None:
        self._pass(waiting=True)

    def step(self, images: int) -> None:
        """One step was trained, with this many images over all processes."""
        self._pass()
        for span in (self._interval, self._epoch, self._run):
            span.steps += 1
            span.images += images
        if not self._warm:  # the first step compiles, tunes and fills caches: no measure of those to come
            self._warm = True
            self._run = Span()

    def leave(self) -> None:
        self._pass()

    def take_interval(self) -> Span:
        """What happened since this was last called."""
        taken, self._interval = self._interval, Span()
        return taken

    @property
    def epoch(self) -> Span:
        """The epoch so far."""
        return self._epoch

    @property
    def steady(self) -> Span:
        """All steps of this process but the first one."""
        return self._run

    @property
    def seconds_per_step(self) -> float | None:
        """Mean over all steps of this process but the first one; None before the second."""
        return self._run.seconds_per_step

    def _pass(self, waiting: bool = False) -> None:
        now = self._clock()
        passed, self._mark = now - self._mark, now
        for span in (self._interval, self._epoch, self._run):
            span.seconds += passed
            if waiting:
                span.wait_seconds += passed


def eta_seconds(
    steps_left: int,
    seconds_per_step: float | None,
    validations_left: int = 0,
    seconds_per_validation: float | None = None,
) -> float | None:
    """Time until the run ends: steps and validations at the rates of those that were made.

    Before the first validation ``seconds_per_validation`` is None, and validations count nothing. None before there is
    a rate of the steps.
    """
    if seconds_per_step is None:
        return None
    return steps_left * seconds_per_step + validations_left * (seconds_per_validation or 0.0)
