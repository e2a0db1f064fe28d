"""A real small run from the command line: training, resuming, testing, exporting, recomputing. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

# Runs commands in one process and reports every class that any unpickler looked up, and how torch.load was called.
WATCH = """
import json, sys
found, loads = [], []

def watch(event, arguments):
    if event == "pickle.find_class":
        frame = sys._getframe()
        places = []
        while frame is not None and len(places) < 8:
            places.append(frame.f_code.co_filename)
            frame = frame.f_back
        found.append([*map(str, arguments), *places])

sys.addaudithook(watch)
import torch
theirs = torch.load

def load(*arguments, **options):
    loads.append(bool(options.get("weights_only", False)))
    return theirs(*arguments, **options)

torch.load = torch.serialization.load = load
from sosr_det.cli.main import main

codes = []
for command in json.loads(sys.argv[1]):
    try:
        main(command)
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
print("REPORT" + json.dumps([codes, found, loads]))
"""


def watched(folder, commands, *, cwd=None):
    environment = os.environ | {"SOSR_REGISTRY": str(folder / "registry"), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = [line for line in result.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, result.stdout + result.stderr
    return *json.loads(lines[0].removeprefix("REPORT")), result.stderr


@pytest.fixture(scope="module")
def run(folder):
    """The commands of a run's life, watched."""
    train = ["train", "tiny.py", "--work-dir", "run"]
    return watched(
        folder,
        [
            [*train, "--total-epochs", "1"],
            [*train, "--resume", "--total-epochs", "2"],
            ["test", "tiny.py", "run/epoch_2.pth"],
            ["export", "run", "--name", "tiny"],
            ["train", "tiny.py", "--work-dir", "child", "--backbone", "sosr://tiny", "--total-epochs", "1"],
            ["figures", "run", "--out", "figures", "--recompute"],
        ],
    )


def test_the_run_succeeds_and_reads_checkpoints(run):
    codes, _, loads, errors = run
    assert codes == [0] * 6, errors
    assert len(loads) >= 4


def test_torch_never_unpickles_freely(run):
    assert all(run[2])


def test_no_unpickler_looks_up_a_class(run):
    """Beside torch's restricted reader, which has its own list, nothing reads pickles from files at all."""
    assert run[1] == []


def test_the_watch_sees_what_it_is_for(folder, tmp_path):
    """The negative control: a checkpoint read without restriction leaves its trace."""
    import torch

    torch.save({"a": np.float64(1.0)}, folder / "numbers.pth")
    code = WATCH.replace("from sosr_det.cli.main import main", "main = torch.load").replace(
        "main(command)", "main(*command, weights_only=False)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps([["numbers.pth"]])],
        cwd=folder, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    _, found, loads = json.loads(result.stdout.partition("REPORT")[2])
    assert loads == [False]
    assert any("multiarray" in each[0] for each in found)


THEIR_TOOLS = """
import json, runpy, sys, traceback
from pathlib import Path
import mmdet
import sosr_det.errors

tools = Path(mmdet.__file__).parent / ".mim" / "tools"
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(tools / script), run_name="__main__")
        print("REPORT ran")
    except sosr_det.errors.CheckpointError as error:
        print("REPORT refused", error)
    except BaseException as error:
        traceback.print_exc()
        print("REPORT", type(error).__name__, error)
"""


def test_mmdetections_own_tools_refuse_hostile_files(folder, hostile, canary, tmp_path):
    """All that they know of this project is `custom_imports` in the config."""
    path = str(hostile("in meta", tmp_path / "files"))
    train = ["train.py", "tiny.py", "--work-dir", str(tmp_path / "run")]
    init_cfg = "model.backbone.init_cfg"
    commands = [
        [*train, "--cfg-options", f"load_from={path}"],
        [*train, "--resume", path],
        [
            *train,
            "--cfg-options",
            f"{init_cfg}.checkpoint={path}",
            f"{init_cfg}.type=Pretrained",
        ],
        ["test.py", "tiny.py", path, "--work-dir", str(tmp_path / "run")],
    ]
    result = subprocess.run(
        [sys.executable, "-c", THEIR_TOOLS, json.dumps(commands)],
        cwd=folder, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = [line for line in result.stdout.splitlines() if line.startswith("REPORT")]
    assert len(lines) == len(commands), result.stdout + result.stderr
    for line in lines:
        assert line.startswith(f"REPORT refused {path} holds more than tensors"), (
            result.stdout + result.stderr
        )
    assert not canary.touched
