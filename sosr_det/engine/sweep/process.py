"""A trial's process: started, logged, waited for, and alone in its folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# For a trial to write its record and checkpoint pointer after it was told to stop.
_SECONDS_TO_STOP = 60


@contextmanager
def hold_lock(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Hold an exclusive lock on a file; yields its descriptor, or None where another process holds it.

    The lock goes when the last process that inherited the descriptor ends, so a trial that outlives a killed sweep
    keeps its own. Works between processes of one machine, and between machines where their shared file system
    supports ``flock``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def run_process(command: Sequence[str], log: Path, lock: int) -> int:
    """Run a trial to its end; returns its exit code. Its output is appended to ``log``.

    When this process is interrupted, the trial is told to stop and waited for.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        stream.write(f"$ {' '.join(command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, pass_fds=(lock,)
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def last_error(log: Path) -> str:
    """The last ``error: …`` line of a log, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")
