"""`sosr-det bench faults` tells what it finds, also where a fault does do harm."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sosr_det.analysis.bench_faults.bench import table
from sosr_det.analysis.bench_faults.cases import cases
from sosr_det.cli.main import app
from sosr_det.errors import ConfigError


def try_faults(folder, only, spoilt):
    from pathlib import Path

    from sosr_det.analysis.bench_faults.bench import bench_faults
    from sosr_det.cli.main import main
    from sosr_det.engine.loops import place

    if spoilt:
        place.set_rng_state = lambda state: None  # resumed runs draw other random numbers
    return bench_faults(Path(folder), main, only=only)


def test_rows_tell_what_happened_and_what_was_lost(drill, tmp_path):
    outcome = drill.call("try_faults", str(tmp_path / "bench"), "NaN", False)
    assert outcome.code == 0, outcome.text
    first, second = outcome.value
    assert (first["lost_steps"], second["lost_steps"]) == (2, 6)
    assert first["happened"] == (
        "exit code 1, told: the loss is nan; resumed from epoch_1.pth; same bits as undisturbed"
    )
    assert first["as_it_should"]
    assert second["as_it_should"]
    lines = table(outcome.value).splitlines()
    assert lines[0] == "| fault | what happened | lost work |"
    assert lines[2].endswith("| 2 steps |")


def test_a_resumption_that_is_not_exact_is_told(drill, tmp_path):
    outcome = drill.call("try_faults", str(tmp_path / "bench"), "becomes NaN", True)
    assert outcome.code == 0, outcome.text
    (row,) = [each for each in outcome.value if each["fault"].startswith("a loss")]
    assert not row["as_it_should"]
    assert row["problems"][0].startswith("learned something else")


def test_names_differ_and_a_used_folder_is_refused(tmp_path):
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names) > 30
    (tmp_path / "something").write_text("")
    result = CliRunner().invoke(app, ["bench", "faults", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match="holds something"):
        raise result.exception
