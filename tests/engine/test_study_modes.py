"""How a study goes on with a run of it that failed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from sosr_det.engine.compare.cell import ATTEMPT, training_mode
from sosr_det.engine.studies.records import MODES, next_mode


def test_what_a_run_has_saved_is_never_thrown_away(tmp_path):
    """Twice at the same checkpoint it may have been the disk or the data's mount that failed."""
    (tmp_path / "epoch_80.pth").write_bytes(b"x")
    assert next_mode(tmp_path, stuck=False) == "resuming"  # also where the pointer is lost
    (tmp_path / "last_checkpoint").write_text("epoch_80.pth")
    assert next_mode(tmp_path, stuck=False) == "resuming"
    assert MODES[next_mode(tmp_path, stuck=True)] == ["--resume", "--fresh"]


def test_what_has_saved_nothing_is_started_over(tmp_path):
    assert next_mode(tmp_path, stuck=False) == "starting over"
    (tmp_path / "last_checkpoint").write_text("/elsewhere/step.pth")
    assert next_mode(tmp_path, stuck=False) == "resuming"
    assert MODES[next_mode(tmp_path, stuck=True)] == ["--overwrite"]


@pytest.mark.parametrize("pointer", ["epoch_80.pth", "epoch_79.pth"])
def test_a_cell_that_failed_where_it_was_resumed(tmp_path, pointer):
    cell = SimpleNamespace(folder=tmp_path, run_dir=tmp_path)
    for name, text in (("run.json", "{}"), ("epoch_80.pth", ""), ("last_checkpoint", "epoch_80.pth")):
        (tmp_path / name).write_text(text)
    attempt = {"mode": "resuming", "failed": True, "last_checkpoint": pointer}
    (tmp_path / ATTEMPT).write_text(json.dumps(attempt))
    assert training_mode(cell) == ("resuming what is whole" if pointer == "epoch_80.pth" else "resuming")
