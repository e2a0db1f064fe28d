"""What is told of a run's process: its last error, how it ended, and file systems that cannot lock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys

import pytest

from sosr_det.engine.studies.process import Processes, hold_lock, how_ended, last_error
from sosr_det.errors import SosrError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$ train\nerror: old\n$ train --resume\nloading\n", "loading"),
        ("$ train\nerror: old\n$ train --resume\n", "no output"),
        ("$ train\nfine\n$ test\nerror: new\nlate noise\n", "new"),
        ("$ train\nerror: first\n  $ indented is output\n", "first"),
        ("error: no command\nnoise\n", "no command"),
    ],
)
def test_the_error_is_of_the_last_command(text, told, tmp_path):
    (tmp_path / "log").write_text(text)
    assert last_error(tmp_path / "log") == told


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "exit code 0"),
        (1, "exit code 1"),
        (-9, "killed by signal 9 (SIGKILL)"),
        (-11, "killed by signal 11 (SIGSEGV)"),
        (-1000, "killed by signal 1000"),
    ],
)
def test_how_it_ended(code, told):
    assert how_ended(code) == told


def test_a_real_process_that_is_killed(tmp_path):
    """An earlier error in the same log is not taken for the reason."""
    log = tmp_path / "log"
    with hold_lock(tmp_path / "lock", wait=False) as lock:
        for code in ("print('error: old'); raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"):
            ended = Processes().run([sys.executable, "-c", code], log, lock)
    assert ended == -signal.SIGKILL
    assert (how_ended(ended), last_error(log)) == ("killed by signal 9 (SIGKILL)", "no output")


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(number, wait, tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(SosrError, match=r"cannot lock files .*Use a --work-dir on a local disk"),
        hold_lock(tmp_path / "x" / "lock", wait=wait),
    ):
        pass
