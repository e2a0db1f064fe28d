"""All ranks agree to stop, or to save, after the same step."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.dist import get_world_size

from sosr_det.engine.signals import active_stop_signals


@dataclass(frozen=True)
class Wish:
    """What some rank wants after a step.

    Attributes:
        stop: the signal number that asked for it, 0 for none.
        save: a save is due.
    """

    stop: int = 0
    save: bool = False


class StopConsensus:
    """Exchanges wishes between the ranks while they compute, so that no step waits for it.

    With several ranks, what is asked for during a step is agreed on during the next one: a signal may reach the ranks
    in different steps, and a rank that stopped alone would leave the others waiting. The exchange is over gloo, on the
    CPU, whatever backend the gradients use.

    Args:
        save_every_minutes: wall time between two saves, above 0; 0 asks for none.
    """

    def __init__(self, save_every_minutes: float) -> None:
        self._seconds = save_every_minutes * 60
        self._saved = time.monotonic()
        self._group = torch_dist.new_group(backend="gloo") if get_world_size() > 1 else None
        self._pending: tuple[torch.Tensor, Any] | None = None

    def saved(self) -> None:
        """A checkpoint was written: the time to the next begins anew."""
        self._saved = time.monotonic()

    def after_step(self) -> Wish:
        """What all ranks agree on; every rank must call it after each step."""
        own = self._own()
        if self._group is None:
            return own
        agreed = self._finish()
        wishes = torch.tensor([own.stop, int(own.save)], dtype=torch.int64)
        work = torch_dist.all_reduce(wishes, op=torch_dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (wishes, work)
        return agreed

    def settle(self) -> Wish:
        """Agree at once; every rank must call it at the same place, such as the end of an epoch."""
        if self._group is None:
            return self._own()
        before = self._finish()
        self.after_step()
        now = self._finish()
        return Wish(max(before.stop, now.stop), before.save or now.save)

    def _finish(self) -> Wish:
        if self._pending is None:
            return Wish()
        wishes, work = self._pending
        work.wait()
        self._pending = None
        stop, save = wishes.tolist()
        return Wish(stop, bool(save))

    def _own(self) -> Wish:
        signals = active_stop_signals()
        received = signals.received if signals else None
        due = self._seconds > 0 and time.monotonic() - self._saved >= self._seconds
        return Wish(int(received) if received else 0, due)


def signal_name(number: int) -> str:
    """Such as ``SIGTERM``."""
    return signal.Signals(number).name
