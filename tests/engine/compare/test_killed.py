"""Killed comparisons, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import sosr_det.register  # noqa: F401
from sosr_det.engine.compare.cell import read_done
from sosr_det.engine.studies.process import Processes, hold_lock

_TRAINING = """
    import json, sys, time
    from pathlib import Path
    kind, folder, mode, go = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "test":
        (folder / "predictions.npz").write_text("x")
        (folder / "test.json").write_text(json.dumps({"metrics": {"accuracy/top1": 1.0}}))
        sys.exit()
    with open(folder / "modes", "a") as stream:
        stream.write(mode + "\\n")
    record = {"schema_version": 1, "status": "running", "config_text": "", "epochs": []}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "epoch_1.pth").write_text("x")
    (folder / "last_checkpoint").write_text("epoch_1.pth")
    while "b@v1" in str(folder) and not go.exists():
        time.sleep(0.02)
    (folder / "run.json").write_text(json.dumps({**record, "status": "completed"}))
"""
# The same comparison in a process that can be killed.
_PROGRAM = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import conftest

    conftest.use_script({script!r}, {go!r}, setattr)
    conftest.compare_with(Path({folder!r}), seeds="0")
"""


def test_killed_and_started_again(tmp_path, monkeypatch, capsys, compare, use_script):
    """kill -9 while the second run trains: its training goes on and is waited for; what was finished is kept."""
    script, program, folder, go = (tmp_path / name for name in ("training.py", "program.py", "c", "go"))
    script.write_text(textwrap.dedent(_TRAINING))
    values = {
        "tests": str(Path(__file__).parent),
        "script": str(script),
        "folder": str(folder),
        "go": str(go),
    }
    program.write_text(textwrap.dedent(_PROGRAM).format(**values))
    first = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.DEVNULL)
    second = folder / "runs" / "b@v1" / "seed-0"
    deadline = time.monotonic() + 60
    while not (second / "train" / "last_checkpoint").is_file():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    use_script(script, go, monkeypatch.setattr)
    threading.Timer(0.5, go.touch).start()
    study, failures = compare(folder, seeds="0")
    out = capsys.readouterr().out
    assert failures == {}
    assert "a/seed-0: done before" in out
    assert "b@v1/seed-0: another process is running it" in out
    assert "b@v1/seed-0: testing" in out
    for arm in ("a", "b@v1"):
        assert (folder / "runs" / arm / "seed-0" / "train" / "modes").read_text() == "starting\n"
    assert all(read_done(cell) for cell in study.cells())

    # And where the training was killed, too: it is resumed.
    (second / "done.json").unlink()
    record = json.loads((second / "train" / "run.json").read_text())
    (second / "train" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    compare(folder, seeds="0")
    assert "b@v1/seed-0: resuming" in capsys.readouterr().out
    assert (second / "train" / "modes").read_text() == "starting\nresuming\n"
    assert all(read_done(cell) for cell in study.cells())


def test_stopping_stops_the_runs(tmp_path):
    """As a signal handler's unwinding does; the run is told to stop and does not count as failed."""
    processes = Processes()
    outcome = []

    def run():
        with hold_lock(tmp_path / "lock", wait=False) as lock:
            try:
                outcome.append(
                    processes.run(
                        [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", lock
                    )
                )
            except KeyboardInterrupt:
                outcome.append("stopped")

    thread = threading.Thread(target=run)
    thread.start()
    while not processes._running:
        time.sleep(0.01)
    began = time.monotonic()
    processes.stop()
    thread.join(10)
    assert outcome == ["stopped"]
    assert time.monotonic() - began < 10
