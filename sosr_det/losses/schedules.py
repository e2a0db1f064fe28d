"""Values that follow the epoch, for P and beta. The paper keeps both constant, and so does the default."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A value for each epoch: ``schedule(epoch) -> float``; ``epoch`` counts from 0 and may have a fraction."""

    def __call__(self, epoch: float) -> float: ...


class LinearSchedule:
    """From ``start`` to ``end`` in a straight line between two epochs, constant before and after.

    Args:
        start: value up to and including ``begin_epoch``.
        end: value from ``end_epoch`` on.
        begin_epoch, end_epoch: ``0 <= begin_epoch < end_epoch``, counted from 0.

    ``LinearSchedule(0.0, 0.5, 0, 10)`` as a weight warms SOSR up over ten epochs.

    Raises:
        ValueError: epochs in the wrong order, or a value that is not finite.
    """

    def __init__(self, start: float, end: float, begin_epoch: float, end_epoch: float) -> None:
        if not 0 <= begin_epoch < end_epoch < math.inf:
            raise ValueError(
                f"a schedule needs 0 <= begin_epoch < end_epoch, got begin_epoch={begin_epoch}, end_epoch={end_epoch}"
            )
        if not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError(f"a schedule needs finite values, got start={start}, end={end}")
        self.start, self.end = float(start), float(end)
        self.begin_epoch, self.end_epoch = float(begin_epoch), float(end_epoch)

    def __call__(self, epoch: float) -> float:
        return self.start + (self.end - self.start) * self._progress(epoch)

    def _progress(self, epoch: float) -> float:
        return min(max((epoch - self.begin_epoch) / (self.end_epoch - self.begin_epoch), 0.0), 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start}, {self.end}, {self.begin_epoch}, {self.end_epoch})"


class CosineSchedule(LinearSchedule):
    """As :class:`LinearSchedule`, along half a cosine: slow at both ends."""

    def _progress(self, epoch: float) -> float:
        return (1 - math.cos(math.pi * super()._progress(epoch))) / 2
