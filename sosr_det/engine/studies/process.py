"""A run's process: started, logged, waited for, and alone in its folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sosr_det.errors import SosrError

# For a run to write its record and checkpoint pointer after it was told to stop.
_SECONDS_TO_STOP = 60
# What flock says where a (network) file system has no locks, or its lock service does not run.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def hold_lock(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Hold an exclusive lock on a file; yields its descriptor, or None where another process holds it.

    The lock goes when the last process that inherited the descriptor ends, so a run that outlives a killed study
    keeps its own. Works between processes of one machine, and between machines where their shared file system
    supports ``flock``.

    Raises:
        SosrError: the file system does not support it at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise SosrError(
                f"the file system of {path.parent} cannot lock files ({error.strerror}), so two processes could train "
                "into one folder. Use a --work-dir on a local disk, or mount this file system with locks (NFS: "
                "without nolock, with its lock service running)."
            ) from error
        else:
            yield descriptor
    finally:
        os.close(descriptor)


class Processes:
    """The runs that this process has started and that have not ended; may be used from several threads."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._stopping = False

    def run(
        self, command: Sequence[str], log: Path, lock: int, environment: Mapping[str, str] | None = None
    ) -> int:
        """Run a command to its end; returns its exit code. Its output is appended to ``log``.

        Args:
            command: program and arguments.
            log: file; its folder is made.
            lock: descriptor of :func:`hold_lock`, which the process inherits.
            environment: variables that it gets beside this process's.

        Raises:
            KeyboardInterrupt: :meth:`stop` was called before it could start or while it ran.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as stream:
            stream.write(f"$ {shlex.join(command)}\n".encode())
            stream.flush()
            with self._lock:
                if self._stopping:
                    raise KeyboardInterrupt
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),
                    env={**os.environ, **environment} if environment else None,
                )
                self._running.append(process)
            code = process.wait()
        with self._lock:
            self._running.remove(process)
            if self._stopping:  # it ended because it was told to
                raise KeyboardInterrupt
        return code

    def stop(self) -> None:
        """Tell all of them to stop, wait for them, and let none start again."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_process(command: Sequence[str], log: Path, lock: int) -> int:
    """Run one command as :meth:`Processes.run` does; when this process is interrupted, it is stopped and waited for."""
    processes = Processes()
    try:
        return processes.run(command, log, lock)
    except BaseException:
        processes.stop()
        raise


def how_ended(code: int) -> str:
    """``exit code 1``, or ``killed by signal 9 (SIGKILL)`` for the negative codes of :mod:`subprocess`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:  # real-time signals have no names
        name = ""
    return f"killed by signal {-code}{name}"


def last_error(log: Path) -> str:
    """The last ``error: …`` line of what a log has of its last command, else its last line.

    A log that does not begin a command with ``$ `` is taken whole.
    """
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines, start=1) if line.startswith("$ ")]
    lines = [line.strip() for line in lines[starts[-1] if starts else 0 :]]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")
