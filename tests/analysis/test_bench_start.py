"""The benchmark of the start: what it times, and that a training that does not start is told."""

from __future__ import annotations

import itertools

import pytest
from typer.testing import CliRunner

from sosr_det.analysis import bench_start as bench
from sosr_det.cli.bench import app
from sosr_det.errors import ConfigError


@pytest.fixture
def data(tmp_path):
    for _, folder, _ in bench.STAGES.values():
        (tmp_path / folder).mkdir()
    return tmp_path


def fake_training(lines, code=130, seconds=0.0):
    """A process that marks what it is told to, each ``seconds`` after the one before."""
    return f"""
import sys, time
for name in {lines!r}:
    time.sleep({seconds})
    print(name, time.monotonic(), 7.5, file=open(sys.argv[1], "a"))
print("the reason")
sys.exit({code})
"""


def test_marks_count_from_the_start_of_the_process(data, monkeypatch):
    monkeypatch.setattr(bench, "_PROBE", fake_training(bench.MARKS, seconds=0.2))
    found = bench.time_start(data, "classification")
    assert found.pop("first_batch_cpu") == 7.5
    assert list(found) == list(bench.MARKS)
    values = list(found.values())
    assert values[0] >= 0.2  # Python's own start counts too
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(values))


def test_medians_of_starts_in_turns(data, monkeypatch):
    starts = iter([(1, "c"), (5, "d"), (2, "c"), (7, "d"), (9, "c"), (6, "d")])

    def time_start(folder, stage):
        seconds, letter = next(starts)
        assert stage.startswith({"c": "cl", "d": "de"}[letter])
        marks = {mark: seconds + index / 10 for index, mark in enumerate(bench.MARKS)}
        return marks | {"first_batch_cpu": seconds / 2}

    monkeypatch.setattr(bench, "time_start", time_start)
    results = bench.bench_start(data, repeats=3)
    assert results["classification"]["first_batch_s"] == 2.2
    assert results["classification"]["first_batch_s_all"] == [1.2, 2.2, 9.2]
    assert results["detection"]["built_s"] == 6.1
    header, columns, *rows = bench.report_lines(results)
    assert "medians" in header
    assert columns.split() == [
        "stage",
        "imported",
        "built",
        "first",
        "batch",
        "first",
        "step",
        "CPU",
        "s",
        "limit",
    ]
    assert rows[0].split() == ["classification", "2.00", "2.10", "2.20", "2.30", "1.00", "10"]


def test_a_training_that_ends_too_early_is_told_with_its_last_lines(data, monkeypatch):
    monkeypatch.setattr(bench, "_PROBE", fake_training(["imported"], code=1))
    with pytest.raises(
        ConfigError, match=r"classification stage ended before its first step \(exit 1\):\nthe reason"
    ):
        bench.time_start(data, "classification")


def test_wrong_stage_and_missing_data(tmp_path, data):
    with pytest.raises(ConfigError, match="--stage must be one of classification, detection, got 'export'"):
        bench.bench_start(data, ["export"])
    with pytest.raises(ConfigError, match=r"no imagenet in .*data demo --out"):
        bench.bench_start(tmp_path / "none")
    result = CliRunner().invoke(app, ["start", "--data", str(tmp_path / "none")])
    assert isinstance(result.exception, ConfigError)


def test_the_probe_is_python_and_knows_every_mark():
    compile(bench._PROBE, "probe", "exec")
    assert all(f'mark("{mark}")' in bench._PROBE for mark in bench.MARKS)
