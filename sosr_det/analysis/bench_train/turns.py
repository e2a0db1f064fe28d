"""Steps of several training loops in turns, where one of them is an engine that calls us and cannot be called."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from sosr_det.analysis.interleaved import synchronize

HOST = "sosr-det"


class AllRoundsDone(Exception):
    """Leaves the host's training when everything is measured."""


class Turns:
    """The host calls :meth:`host_stepped` after each step; after every ``steps_per_turn`` the guests take theirs.

    Args:
        guests: name -> a loop that yields after each step.
        steps_per_turn: at least 1.
        rounds: turns of each that are counted, at least 1; ``warm_up`` come before them.
        device: ``cuda…`` is waited for at both ends of a turn.

    Attributes:
        times: name -> seconds of each counted turn, the host's under :data:`HOST`.
        cpu_times: likewise, seconds of this process's processor time, which others on the machine do not prolong.
    """

    def __init__(
        self,
        guests: Mapping[str, Iterator[None]],
        steps_per_turn: int,
        rounds: int,
        *,
        warm_up: int = 2,
        device: str = "cpu",
    ) -> None:
        if steps_per_turn < 1 or rounds < 1:
            raise ValueError(f"steps per turn and rounds must be at least 1, got {steps_per_turn}, {rounds}")
        self.times: dict[str, list[float]] = {HOST: [], **{name: [] for name in guests}}
        self.cpu_times: dict[str, list[float]] = {name: [] for name in self.times}
        self._guests = dict(guests)
        self._steps_per_turn, self._rounds, self._warm_up = steps_per_turn, rounds, warm_up
        self._device = device
        self._round = self._host_steps = 0
        self._began = (0.0, 0.0)

    @property
    def host_steps(self) -> int:
        """Steps that each contender takes in all."""
        return self._steps_per_turn * (self._rounds + self._warm_up)

    def begin(self) -> None:
        """Just before the host's first step."""
        self._began = self._now()

    def host_stepped(self) -> None:
        """After each step of the host.

        Raises:
            AllRoundsDone: the last turn is over.
        """
        self._host_steps += 1
        if self._host_steps % self._steps_per_turn:
            return
        self._count(HOST, self._began)
        names = list(self._guests)
        turn = self._round % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            began = self._now()
            for _ in range(self._steps_per_turn):
                next(self._guests[name])
            self._count(name, began)
        self._round += 1
        if self._round == self._rounds + self._warm_up:
            raise AllRoundsDone
        self._began = self._now()

    def _count(self, name: str, began: tuple[float, float]) -> None:
        wall, cpu = self._now()
        if self._round >= self._warm_up:
            self.times[name].append(wall - began[0])
            self.cpu_times[name].append(cpu - began[1])

    def _now(self) -> tuple[float, float]:
        synchronize(self._device)
        return time.perf_counter(), time.process_time()
