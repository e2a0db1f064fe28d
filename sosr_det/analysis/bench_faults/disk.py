"""Faults of a disk: a process dies between two calls, or a call fails, or what is read is not what was written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sosr_det.analysis.bench_faults.arrange import die

WATCHED = ("open", "write", "fsync", "replace", "unlink", "read")
Fault = Callable[[str, Callable, tuple], Any]


class FaultyDisk:
    """Counts the system calls that writing a checkpoint is made of, and lets one of them go wrong.

    Args:
        at: number of the call, from 1, counted while it is :meth:`active`; 0 for none.
        fault: ``fault(name, call, arguments)`` instead of ``call(*arguments)``.
        only: names of calls that are counted.
        stays: all counted calls from ``at`` on go wrong, as on a full disk.

    Attributes:
        calls: names of the calls so far.
    """

    def __init__(
        self, at: int, fault: Fault, only: tuple[str, ...] = WATCHED, *, stays: bool = False
    ) -> None:
        self.at, self.fault, self.only, self.stays = at, fault, only, stays
        self.calls: list[str] = []

    @contextmanager
    def active(self) -> Iterator[FaultyDisk]:
        """Within the block, calls of this thread are counted."""
        originals = {name: getattr(os, name) for name in self.only}
        thread = threading.get_ident()
        for name, call in originals.items():
            setattr(os, name, self._watched(name, call, thread))
        try:
            yield self
        finally:
            for name, call in originals.items():
                setattr(os, name, call)

    def _watched(self, name: str, call: Callable, thread: int) -> Callable:
        def watched(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != thread:
                return call(*arguments, **options)
            self.calls.append(name)
            due = len(self.calls) == self.at or (self.stays and 0 < self.at < len(self.calls))
            return self.fault(name, call, arguments) if due else call(*arguments, **options)

        return watched


def dies(name: str, call: Callable, arguments: tuple) -> Any:
    """SIGKILL before the call; in a write, after half of it."""
    if name == "write":
        call(arguments[0], arguments[1][: len(arguments[1]) // 2])
    die()


def fails(number: int) -> Fault:
    """The call raises ``OSError`` with this errno; of a write, half was done."""

    def fault(name: str, call: Callable, arguments: tuple) -> Any:
        if name == "write" and number == errno.ENOSPC:
            call(arguments[0], arguments[1][: len(arguments[1]) // 2])
        raise OSError(number, os.strerror(number))

    return fault


def lies(name: str, call: Callable, arguments: tuple) -> Any:
    """A read gives one wrong bit."""
    data = bytearray(call(*arguments))
    if data:
        data[len(data) // 2] ^= 1
    return bytes(data)


def short(name: str, call: Callable, arguments: tuple) -> Any:
    """A write takes only a few bytes, as it may."""
    return call(arguments[0], arguments[1][:7])


def in_saves(disk: FaultyDisk, *, first: int = 1) -> None:
    """Arrange that ``disk`` is active in the saves of a training from the ``first``-th on; nothing is undone."""
    from sosr_det.engine.checkpoints.hook import AtomicCheckpointHook

    save, count = AtomicCheckpointHook._save, [0]

    def watched(self: Any, *arguments: Any) -> None:
        count[0] += 1
        if count[0] < first:
            save(self, *arguments)
            return
        with disk.active():
            save(self, *arguments)

    AtomicCheckpointHook._save = watched
