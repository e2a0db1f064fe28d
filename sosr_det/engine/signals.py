"""Signals that ask a process to end: SIGTERM unwinds as Ctrl-C does, and a training saves before it stops.

Exit codes: 75 (``EX_TEMPFAIL``: try again later) after a training was stopped by SIGTERM or SIGUSR1 and had saved
everything, so that a scheduler can tell "run it again with --resume" from a failure; 130 after Ctrl-C; 143 after a
SIGTERM that left no time to save.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # exit code, as a shell reports it
STOPPED = 75  # exit code: saved on request, to be continued

# SIGHUP: the terminal or the connection that the training was started from is gone.
_IMPATIENT = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
_GRACEFUL = [*_IMPATIENT, getattr(signal, "SIGUSR1", signal.SIGTERM)]


class StoppedOnRequest(SystemExit):
    """A training stopped because it was asked to, at a step boundary, with everything saved; its code is 75."""

    def __init__(self, text: str) -> None:
        super().__init__(STOPPED)
        self.text = text


class SavedInterrupt(KeyboardInterrupt):
    """Ctrl-C, obeyed at a step boundary with everything saved."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Within the block or decorated function SIGTERM raises ``SystemExit(TERMINATED)``, so that cleaning up happens.

    The handler from before comes back: processes that are forked later would inherit this one, and could not be ended
    where an exception gets lost, as in the hooks of a fork. Off the main thread Python allows no handlers: no change.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class StopSignals:
    """What has asked this process to stop. While ``can_save`` is set, the first request waits for the training to save.

    Attributes:
        received: the first signal that is waiting to be obeyed, or None.
        can_save: a training is between its steps or in one, so that it can save and stop by itself soon. Otherwise
            SIGINT and SIGTERM end the process at once, and SIGUSR1 waits for the first step.
        saved: the request was obeyed, and the process is about to end. Launchers send SIGTERM to the ranks that are
            slower than the first to end: it must not turn "saved" into a failure.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.can_save = False
        self.saved = False
        self._pid = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second SIGINT or SIGTERM no longer waits."""
        name = signal.Signals(number)
        if os.getpid() != self._pid:  # a forked worker of a data loader: it ends when its parent does
            if name not in (signal.SIGINT, signal.SIGUSR1):
                os._exit(TERMINATED)
            return
        if self.saved and name != signal.SIGINT:
            return
        patient = self.can_save or name not in _IMPATIENT
        if self.received is None and patient:
            self.received = name
            again = "; send SIGTERM to stop without saving" if self.can_save else ""
            # Not print: a handler may come in the middle of one.
            sys.__stderr__.write(
                f"\n{name.name}: saving at the next step{again}\n"
            ) if sys.__stderr__ else None
        elif name == signal.SIGINT:
            raise KeyboardInterrupt
        elif name in _IMPATIENT:
            sys.exit(TERMINATED)


@contextmanager
def announcements_wait() -> Iterator[None]:
    """Within the block SIGUSR1 waits until :func:`stop_signals` handles it: in a start-up it would end the process.

    Libraries are imported for seconds before a training can handle anything.
    """
    if not hasattr(signal, "SIGUSR1"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


_active: list[StopSignals] = []


def active_stop_signals() -> StopSignals | None:
    """Those of the training that runs in this process, if one has installed handlers."""
    return _active[-1] if _active else None


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle SIGINT, SIGTERM and SIGUSR1 as :class:`StopSignals` says, within the block or decorated function.

    A signal that was ignored stays ignored: a job in the background of a shell must outlive its Ctrl-C. The handlers
    from before come back. Off the main thread Python allows no handlers: nothing is ever received there.
    """
    signals = StopSignals()
    _active.append(signals)
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in dict.fromkeys(_GRACEFUL):
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, signals.handle)
            if hasattr(signal, "SIGUSR1"):  # what came in the start-up comes now
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _active.pop()
