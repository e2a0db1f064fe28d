"""``sosr-det compare``: how its options are read, what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import sosr_det.analysis.comparison as comparison
import sosr_det.engine.compare as engine
from sosr_det.cli.main import app, expand_cfg_options, main
from sosr_det.engine.compare.study import Study


def test_several_backbones_after_one_flag():
    arguments = [
        "compare",
        "--config",
        "c",
        "--backbones",
        "A",
        "B",
        "C=1",
        "--seeds",
        "0..4",
        "--config",
        "d",
    ]
    assert expand_cfg_options(arguments) == [
        "compare", "--config", "c", "--backbones", "A", "--backbones", "B", "--backbones", "C=1", "--seeds", "0..4",
        "--config", "d",
    ]  # fmt: skip
    assert expand_cfg_options(["compare", "--backbones", "A", "--cfg-options", "a=1", "b=2", "--dry-run"]) == [
        "compare", "--backbones", "A", "--cfg-options", "a=1", "--cfg-options", "b=2", "--dry-run",
    ]  # fmt: skip
    assert expand_cfg_options(["compare", "--cfg-options", "a=1", "--backbones", "A", "B"])[3:] == [
        "--backbones", "A", "--backbones", "B"
    ]  # fmt: skip
    # A word without "=" ends --cfg-options, as before.
    assert expand_cfg_options(["train", "--cfg-options", "a=1", "CONFIG"]) == [
        "train", "--cfg-options", "a=1", "CONFIG"
    ]  # fmt: skip


class Command:
    """Stands in for everything behind the command."""

    def __init__(self, monkeypatch, tmp_path):
        self.study = Study(tmp_path, "detection", [], [], {})
        self.failures, self.problems = {}, []
        self.options = self.report = None
        monkeypatch.setattr(engine, "run_comparison", self.run)
        monkeypatch.setattr(comparison, "write_comparison", self.write)

    def run(self, options):
        self.options = options
        return self.study, self.failures

    def write(self, study, **options):
        self.report = options
        return "THE TABLE", self.problems


@pytest.fixture
def command(monkeypatch, tmp_path):
    return Command(monkeypatch, tmp_path)


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    return ended.value.code


def test_options_arrive(command, capsys):
    arguments = (
        "--config c --config d --backbones A B --seeds 0..4 --devices 0,1 --jobs 4 --select-on last --extend"
    )
    assert (
        call(*arguments.split(), "--metric", "map_area", "--resamples", "500", "--bootstrap-seed", "3") == 0
    )
    assert capsys.readouterr().out == "THE TABLE\n"
    options = command.options
    assert (options.configs, options.backbones, options.seeds) == (["c", "d"], ["A", "B"], "0..4")
    assert (options.devices, options.jobs, options.select_on, options.extend) == (["0", "1"], 4, "last", True)
    assert command.report == {"metric": "map_area", "num_resamples": 500, "bootstrap_seed": 3}


def test_a_dry_run_reports_nothing(command, capsys):
    assert call("--config", "c", "--backbones", "A", "B", "--dry-run") == 0
    assert command.report is None


def test_failed_runs_end_with_an_error_after_the_table(command, capsys):
    failure = RuntimeError("the GPU is on fire")
    failure.log = Path("logs/a_seed-0.log")
    again = RuntimeError("the GPU is on fire")
    again.log = Path("logs/b_seed-0.log")
    command.failures = {"a/seed-0": failure, "b/seed-0": again}
    assert call("--config", "c", "--backbones", "A", "B") == 1
    captured = capsys.readouterr()
    assert captured.out == "THE TABLE\n"
    assert (
        "runs failed: a/seed-0 (log: logs/a_seed-0.log), b/seed-0 (log: logs/b_seed-0.log): the GPU is on fire."
    ) in captured.err  # one cause is told once


def test_twins_that_are_none_end_with_an_error(command, capsys):
    command.problems = ["A and B, seed 1: other batches in epoch 2"]
    assert call("--config", "c", "--backbones", "A", "B") == 1
    assert "NOT PAIRED: A and B, seed 1: other batches in epoch 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["--config"], ["--config", "c", "--resamples", "5"], ["--backbones", "A"]]
)
def test_wrong_usage(arguments):
    assert CliRunner().invoke(app, ["compare", *arguments]).exit_code == 2
