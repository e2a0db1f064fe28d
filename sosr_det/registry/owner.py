"""Which process on which machine wrote a file: for temporary files and pins."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # fixed by Linux (PROC_PID_INIT_INO)
_LABEL = re.compile(r"(?P<host>.+)-(?P<pid>[0-9]{1,10})")


@dataclass(frozen=True)
class Owner:
    """A process: ``host`` and ``pid``, and ``started``, which tells it from a later process with the same number.

    ``started`` is in the kernel's ticks since boot, None where it is not known (only Linux says it).
    """

    host: str
    pid: int
    started: int | None = None

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return cls(this_host(), os.getpid(), _started(os.getpid()))

    @classmethod
    def from_label(cls, label: str) -> Owner | None:
        """The process of a :attr:`label`, or None if ``label`` is none."""
        found = _LABEL.fullmatch(label)
        return None if found is None else cls(found["host"], int(found["pid"]))

    @property
    def label(self) -> str:
        """``HOST-PID``, for use in file names."""
        return f"{self.host}-{self.pid}"

    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine, where its number can be looked up."""
        return self.host == this_host()

    def is_dead(self) -> bool:
        """Whether it is certain that it does not run any more; always False for another machine's."""
        if not self.is_here():
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # it belongs to someone else
            return False
        now = _started(self.pid)
        return self.started is not None and now is not None and now != self.started


def this_host() -> str:
    """The machine as part of a file name; containers that count processes for themselves are told apart.

    Machines of the same name that share a folder are told apart by their ``/etc/machine-id``, where there is one.
    """
    name = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:100] or "unknown"
    with suppress(OSError):
        machine = hashlib.sha256(Path("/etc/machine-id").read_bytes().strip()).hexdigest()
        name += f".{machine[:8]}"
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = _FIRST_PID_NAMESPACE
    return name if space == _FIRST_PID_NAMESPACE else f"{name}.ns{space}"


def _started(pid: int) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
        return int(text[text.rindex(b")") + 2 :].split()[19])
    except (OSError, ValueError, IndexError):
        return None
