"""The launcher with real torchrun processes that only pretend to train: how the whole job ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

# Rank 1 takes longer to save. `main` of the real command line notes the exit code in the same way.
PRETENDS = """
import os, signal, sys, time
from sosr_det.cli import rank_errors
from sosr_det.errors import DataError

rank, folder, arguments = int(os.environ["RANK"]), sys.argv[1], ["train", "c", "--launcher", "pytorch"]


def stop(number, frame):
    time.sleep(0.5 * rank)
    raise SystemExit(75)


signal.signal(signal.SIGTERM, stop)
with rank_errors.exit_noted(arguments):
    open(f"{folder}/ready-{rank}", "w").write(os.environ["OMP_NUM_THREADS"])
    if sys.argv[2] == "fails" and rank == 1:
        error = DataError("image 7 is broken")
        rank_errors.say(f"error: {error}", error, arguments)
        raise SystemExit(1)
    if sys.argv[2] == "killed" and rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(600):
        time.sleep(0.1)
"""


@pytest.fixture
def launch(tmp_path):
    """`python -m sosr_det.engine.torchrun` with two processes: exit code, what it said, seconds."""
    script = tmp_path / "pretends.py"
    script.write_text(PRETENDS)

    def run(how, sent=None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        started = time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "sosr_det.engine.torchrun", "--nproc_per_node=2", f"--master_port={port}",
                str(script), str(tmp_path), how,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        while sent and not all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)):
            assert process.poll() is None
            assert time.monotonic() < started + 60
            time.sleep(0.05)
        if sent:
            process.send_signal(sent)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output + errors, time.monotonic() - started

    return run


def test_the_error_of_the_process_that_failed_is_the_last_thing_said(launch):
    code, said, seconds = launch("fails")
    assert code == 1
    assert said.strip().splitlines()[-1] == "rank 1: error: image 7 is broken"
    assert said.count("image 7 is broken") == 1
    assert "Traceback" not in said
    assert seconds < 40  # a process that waits for ever is ended


def test_a_killed_process_is_named(launch, tmp_path):
    code, said, _ = launch("killed")
    assert code == 137
    assert said.strip().splitlines()[-1].startswith("rank 0: error: killed by SIGKILL (out of memory?")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int((tmp_path / "ready-0").read_text()) in (1, max(1, cores // 2))  # 1 beside GPUs


def test_sigusr1_lets_all_save_and_the_code_says_so(launch):
    code, said, _ = launch("saves", sent=signal.SIGUSR1)
    assert code == 75, said
    assert "Traceback" not in said
