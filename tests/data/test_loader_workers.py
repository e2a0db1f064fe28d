"""Workers in process groups of their own: not reached by a group's signals, ended by their DataLoader and with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from sosr_det.data.loader_workers import shield_workers

pytestmark = pytest.mark.skipif(not hasattr(os, "setpgid"), reason="no process groups here")


class Groups:
    """Sample: process group of the process that makes it, and that process."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return os.getpgid(0), os.getpid()


def made_by(**options):
    return DataLoader(Groups(), batch_size=1, collate_fn=list, num_workers=2, **options)


def test_workers_leave_the_group_and_what_was_asked_for_is_done(tmp_path):
    def note(worker_id):
        (tmp_path / str(worker_id)).touch()

    loader = made_by(worker_init_fn=note)
    assert {group for ((group, _),) in loader} == {os.getpgid(0)}  # the control
    shield_workers(loader)
    shield_workers(loader)
    seen = [pair for (pair,) in loader]
    assert {group for group, _ in seen} == {pid for _, pid in seen}  # each its own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


SCRIPT = """
import os, signal, sys, time
from torch.utils.data import DataLoader
from sosr_det.data.loader_workers import shield_workers

class Slow:
    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.05)
        return os.getpid()

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
loader = DataLoader(Slow(), batch_size=1, num_workers=2)
if sys.argv[1] == "shielded":
    shield_workers(loader)
for step, pid in enumerate(loader):
    if step == 1:
        print("ready", int(pid), flush=True)
print("complete", len(asked), flush=True)
"""


@pytest.mark.parametrize("how", ["shielded", "plain"])
def test_a_signal_to_the_whole_group_reaches_the_training_alone(how):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    worker = int(process.stdout.readline().split()[1])
    os.killpg(process.pid, signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert (rest == "complete 1\n") == (how == "shielded")  # else torch raises: a worker was killed
    for _ in range(200):  # no worker is left
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived its DataLoader")


HAND_OVER = """
import torch
from sosr_det.data.loader_workers import shield_workers
loader = torch.utils.data.DataLoader(torch.ones(4, 1000), num_workers=1)
shield_workers(loader)
print(len(list(loader)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the longest name is another one")
@pytest.mark.parametrize(("length", "fine"), [(71, True), (72, False)])
def test_a_temporary_folder_whose_name_is_too_long_is_refused(length, fine):
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "x" * (length - len(base) - 1))
        folder.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", HAND_OVER], env={**os.environ, "TMPDIR": str(folder)}, text=True, timeout=100,
            capture_output=True,
        )  # fmt: skip
    if fine:
        assert result.stdout.strip() == "4", result.stderr
    else:
        assert f"{folder} has too long a name" in result.stderr
        assert "may have 71 bytes. Set TMPDIR" in result.stderr
