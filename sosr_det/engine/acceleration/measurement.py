"""Which of several ways of doing the same is the fastest here, asked of the clock and not of belief.

One after the other, two ways differ by whatever else the machine did meanwhile. Here they are interleaved: every round
runs each way once, in alternating order, and only the ratios within a round count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_ROUNDS, MAX_ROUNDS = 4, 15
MARGIN = 0.05  # less is not worth another rounding; and by chance a median of four rounds is often 3 % off


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found.

    Attributes:
        chosen: the name of the fastest way, or of the plain one where none is reliably faster.
        plain: the way that is taken unless another one is faster.
        seconds: name -> median of a step.
        speedups: name of each other way -> median over the rounds of ``plain``'s time divided by its own; above 1 it is
            faster.
        won: name of each other way -> number of rounds that it was faster in.
        rounds: number of rounds.
    """

    chosen: str
    plain: str
    seconds: dict[str, float]
    speedups: dict[str, float]
    won: dict[str, int]
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def line(self) -> str:
        """What was measured, in a few words."""
        found = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in self.speedups.items())
        return f"against {self.plain}: {found}, {self.rounds} interleaved rounds"


def measure(
    steps: Mapping[str, Callable[[], None]],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Time the ways of ``steps`` against the first one, and choose.

    Another way is chosen if it is faster in every round, and by at least 5 % in the median: of two equal ways one wins
    four rounds by chance in one of 16 measurements, and hardly ever by so much.

    Args:
        steps: name -> one step. The first is the plain way.
        budget_s: seconds after which no further round begins; four rounds, and one step each before them, are always
            made.
        clock: seconds, monotonic.

    Raises:
        ValueError: fewer than two ways.
    """
    if len(steps) < 2:
        raise ValueError("a measurement compares at least two ways")
    names = list(steps)
    plain = names[0]
    began = clock()
    for step in steps.values():  # the first step of each allocates, and chooses its kernels
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    while len(times[plain]) < MIN_ROUNDS or (len(times[plain]) < MAX_ROUNDS and clock() - began < budget_s):
        for name in names if len(times[plain]) % 2 == 0 else names[::-1]:
            start = clock()
            steps[name]()
            times[name].append(clock() - start)
    return _chosen(times)


def _chosen(times: Mapping[str, Sequence[float]]) -> Measurement:
    plain, *others = times
    ratios = {
        name: [before / now for before, now in zip(times[plain], times[name], strict=True)] for name in others
    }
    speedups = {name: statistics.median(ratios[name]) for name in others}
    reliable = [name for name in others if min(ratios[name]) > 1.0 and speedups[name] >= 1.0 / (1.0 - MARGIN)]
    return Measurement(
        chosen=max(reliable, key=speedups.__getitem__, default=plain),
        plain=plain,
        seconds={name: statistics.median(values) for name, values in times.items()},
        speedups=speedups,
        won={name: sum(ratio > 1.0 for ratio in ratios[name]) for name in others},
        rounds=len(times[plain]),
    )
