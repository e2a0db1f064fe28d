"""Sweeps: the grid, what is run and what is not run again, failures, and several processes on one folder."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
import typer
from typer.testing import CliRunner

from sosr_det.engine.configs import load_config
from sosr_det.engine.run_record import write_run_record
from sosr_det.engine.studies.process import hold_lock, last_error
from sosr_det.engine.studies.seeds import parse_seeds
from sosr_det.engine.sweep import SweepOptions, run_sweep
from sosr_det.engine.sweep import sweep as sweep_module
from sosr_det.engine.sweep.checks import metric_names
from sosr_det.engine.sweep.grid import parse_grid, points
from sosr_det.engine.sweep.results import direction_of
from sosr_det.errors import ConfigError, SosrError

CONFIG = "demo/resnet18_sosr_1xb32-6e_demo-imagenet"
PLAIN = "demo/resnet18_ce_1xb32-6e_demo-imagenet"
DETECTION = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
GRID = ["model.loss.threshold=0.9,0.99", "model.loss.weight=0.5,1"]


# ---- the grid ------------------------------------------------------------------------------------------------------


def test_points_in_order():
    found = points(parse_grid(GRID), parse_seeds("3,1"))
    assert [p.name for p in found[:5]] == [
        "threshold-0.9_weight-0.5_seed-3",
        "threshold-0.9_weight-1_seed-3",
        "threshold-0.99_weight-0.5_seed-3",
        "threshold-0.99_weight-1_seed-3",
        "threshold-0.9_weight-0.5_seed-1",
    ]
    assert len(found) == 8
    assert found[0].parameters == {"model.loss.threshold": 0.9, "model.loss.weight": 0.5, "seed": 3}


def test_the_default_grid_is_over_p_and_beta():
    grid = parse_grid([])
    assert list(grid) == ["model.loss.threshold", "model.loss.weight"]
    assert "0.99" in grid["model.loss.threshold"]  # the paper's own points are among them
    assert {"0.5", "1"} <= set(grid["model.loss.weight"])


def test_values_with_commas_and_odd_characters():
    grid = parse_grid(["a.b=[1,2],[3,4]", "c.b=x/y,x-y", "d='p,q',r"])
    assert grid == {"a.b": ("[1,2]", "[3,4]"), "c.b": ("x/y", "x-y"), "d": ("'p,q'", "r")}
    names = [p.name for p in points(grid, (0,))]
    assert len(set(names)) == len(names) == 8
    assert all("/" not in name and "," not in name for name in names)
    assert names[0].startswith("a.b-1-2-")  # both keys end in "b", so more of them is shown
    # What a point is called does not depend on which other values there are.
    assert {p.name for p in points(parse_grid(["a.b=[3,4]", "c.b=x-y", "d=r"]), (0,))} <= set(names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["a"], "KEY=V1"), (["a="], "KEY=V1"), (["a=1,,2"], "KEY=V1"), (["=1"], "KEY=V1"),
        (["a=1", "a=2"], "given twice"), (["a=0.5,.5"], "given twice"),
    ],
)  # fmt: skip
def test_bad_grids(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(settings)


def test_seeds():
    assert parse_seeds("3, 1") == (3, 1)
    assert parse_seeds("0..4") == (0, 1, 2, 3, 4)
    assert parse_seeds("7,0..1") == (7, 0, 1)
    assert parse_seeds("2..2") == (2,)


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,1", "-1", "1;2", "0.5", "0..", "..3", "0...3", "3..0", "0..2,1", "0..99999999999", "²"],
)
def test_bad_seeds(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ["model.loss.treshold=0.9"]}, "threshold"),
        ({"settings": ["randomness.seed=1,2"]}, "--seeds"),
        ({"cfg_options": ["randomness.seed=1"]}, "--seeds"),
        (
            {"settings": [], "config": PLAIN},
            r"has the loss CrossEntropyLoss: take its -sosr twin, or .*--set KEY",
        ),
        (
            {"settings": [], "config": DETECTION, "metric": "voc/map_area"},
            "detection stage.* name what .*--set KEY",
        ),
        (
            {"settings": ["model.loss.threshold=0.9,1.5"]},
            r"--set model\.loss\.threshold=1\.5: .*\(0, 1\), got 1\.5",
        ),
        (
            {"settings": ["model.loss.threshold=0.9", "model.loss.weight=0,-1"]},
            r"--set model\.loss\.threshold=0\.9 --set model\.loss\.weight=-1: .*>= 0, got -1",
        ),
        ({"settings": ["model.loss.type=SOSRLoss,NoSuchLoss"]}, "NoSuchLoss"),
        (
            {"metric": "foo/bar"},
            r"--metric foo/bar: .*accuracy/top1, accuracy/top5, accuracy/ece, accuracy/nll",
        ),
        (
            {"metric": "accuracy/top5", "cfg_options": ["model.num_classes=3"]},
            "gives: accuracy/top1, accuracy/ece",
        ),
        (
            {"config": DETECTION, "settings": ["optim_wrapper.optimizer.lr=0.1,0.01"]},
            r"accuracy/top1: .*voc/map_11point, voc/map_area, .*voc/ap_area/<class>",
        ),
        ({"config": "no/such"}, "no config file"),
    ],
)
def test_what_the_config_refuses_is_refused_at_once(changes, message, training, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()
    assert training.commands == []


@pytest.mark.parametrize(
    "changes",
    [
        {"config": DETECTION, "settings": ["optim_wrapper.optimizer.lr=0.1"], "metric": "voc/map_area"},
        {"config": DETECTION, "settings": ["optim_wrapper.optimizer.lr=0.1"], "metric": "voc/ap_area/bird"},
        {"config": PLAIN, "settings": ["optim_wrapper.optimizer.lr=0.1"]},
        {"settings": [], "metric": "accuracy/nll"},
        {"settings": ["model.loss.weight=0,0.5"]},
        {"settings": ["model.loss.type=SOSRLoss"], "metric": "accuracy/top5"},
        # Another package's evaluator gives names of its own.
        {"cfg_options": ["val_evaluator.type=Accuracy"], "metric": "foo/bar"},
        {"cfg_options": ["val_evaluator.prefix=mine"], "metric": "mine/top1"},
        {"cfg_options": ["val_evaluator.topk=[2]"], "metric": "accuracy/top2"},
    ],
)
def test_what_would_work_is_let_through(changes, tmp_path, capsys):
    sweep(tmp_path / "s", dry_run=True, seeds="0", **changes)
    assert "[1/" in capsys.readouterr().out


def test_the_loss_inside_of_another_kind_of_model_is_left_to_it(training, tmp_path):
    """Only this project's classifier is known to build `model.loss` as checked."""
    path = tmp_path / "mine.py"
    path.write_text("model = dict(type='SomeoneElses', loss=dict(type='NotOurs', threshold=1, weight=0))\n")
    sweep(tmp_path / "s", config=str(path))
    assert len(training.commands) == 8


def test_metric_names_are_what_the_metrics_give():
    """Names known before the first run, against the evaluators themselves."""
    from sosr_det.evaluation.classification import ClassificationMetric
    from sosr_det.evaluation.voc_metric import VOCDevkitMetric

    scores = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    metric = ClassificationMetric(topk=(1, 5, 9))
    metric.process(None, [{"scores": scores, "label": 0}])
    config = {
        "model": {"num_classes": 5},
        "val_evaluator": {"type": "ClassificationMetric", "topk": (1, 5, 9)},
    }
    assert metric_names(config) == (list(metric.evaluate(1)), [])

    metric = VOCDevkitMetric()
    metric.dataset_meta = {"classes": ["a", "b"]}
    boxes = {"bboxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]), "labels": torch.tensor([0])}
    none = {"bboxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = {**boxes, "scores": torch.tensor([0.9])}
    metric.process(None, [{"gt_instances": boxes, "ignored_instances": none, "pred_instances": found}])
    given = set(metric.evaluate(1))
    exact, of_classes = metric_names(load_config(DETECTION))
    assert {f"{start}{name}" for start in of_classes for name in "ab"} | set(exact) == given


# ---- running it ----------------------------------------------------------------------------------------------------


class FakeTraining:
    """Stands in for the training process: writes the records that it would, and fails where it is told to."""

    def __init__(self):
        self.commands = []
        self.fails = set()  # names of trials
        self.cut_at = None  # number of the call that is interrupted
        self.progresses = False  # whether a trial that fails has left a newer checkpoint

    def __call__(self, command, log, lock):
        self.commands.append(list(command))
        run_dir = Path(command[command.index("--work-dir") + 1])
        log.parent.mkdir(exist_ok=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        epoch = len(self.commands) if self.progresses else 1
        (run_dir / "last_checkpoint").write_text(f"epoch_{epoch}.pth")
        record = {"schema_version": 1, "epochs": [], "data": {"train": {"fingerprint": "t"}, "val": None}}
        if len(self.commands) == self.cut_at:
            write_run_record(run_dir, {**record, "status": "running"})
            raise KeyboardInterrupt
        if run_dir.name in self.fails:
            log.write_text("loading\nerror: the GPU is on fire\n")
            write_run_record(run_dir, {**record, "status": "failed"})
            return 1
        log.write_text("done\n")
        value = score(run_dir.name)
        best = {
            "epoch": 2,
            "val": {"accuracy/top1": value, "accuracy/ece": value / 1000},
            "metric": "accuracy/top1",
        }
        write_run_record(run_dir, {**record, "status": "completed", "best": best, "wall_seconds": 7.5})
        return 0

    def trials(self):
        return [Path(c[c.index("--work-dir") + 1]).name for c in self.commands]


def score(name):
    values = dict(part.split("-", 1) for part in name.split("_"))
    return 50 + 10 * float(values["threshold"]) - float(values["weight"]) + 0.25 * int(values["seed"])


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    monkeypatch.setattr(sweep_module, "run_process", fake)
    return fake


def sweep(folder, **changes):
    return run_sweep(
        SweepOptions(**{"config": CONFIG, "settings": GRID, "seeds": "0,1", "work_dir": folder, **changes})
    )


def test_a_whole_sweep(training, tmp_path, capsys):
    sweep(tmp_path / "s", data_root=Path("somewhere"), total_epochs=2, cfg_options=["model.num_classes=7"])
    assert len(training.commands) == 8
    command = training.commands[1]
    assert command[:5] == [sys.executable, "-m", "sosr_det.cli", "train", CONFIG]
    assert command[5:] == [
        "--work-dir", str(tmp_path / "s" / "threshold-0.9_weight-1_seed-0"), "--seed", "0", "--no-publish",
        "--data-root", "somewhere", "--total-epochs", "2", "--cfg-options", "model.num_classes=7",
        "--cfg-options", "model.loss.threshold=0.9", "--cfg-options", "model.loss.weight=1",
    ]  # fmt: skip

    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    values = [50 + 9 - 0.5, 50 + 9 - 0.5 + 0.25]  # by hand: P 0.9, beta 0.5, seeds 0 and 1
    first = result["summary"][0]
    assert first["parameters"] == {"model.loss.threshold": 0.9, "model.loss.weight": 0.5}
    assert (first["n"], first["mean"]) == (2, pytest.approx(sum(values) / 2))
    assert first["std"] == pytest.approx(0.25 / 2**0.5) == pytest.approx(statistics.stdev(values))
    assert [run["status"] for run in result["runs"]] == ["completed"] * 8
    with open(tmp_path / "s" / "sweep.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert rows[7]["trial"] == "threshold-0.99_weight-1_seed-1"
    assert float(rows[7]["accuracy/top1"]) == pytest.approx(50 + 9.9 - 1 + 0.25)
    assert (rows[7]["seed"], rows[7]["best_epoch"], rows[7]["wall_seconds"]) == ("1", "2", "7.5")

    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["model.loss.threshold", "model.loss.weight", "accuracy/top1", "n"]
    assert table[1].split() == ["0.9", "0.5", "58.62", "±", "0.18", "2"]
    assert [line.split()[:2] for line in table if "best" in line and "±" in line and "mean" not in line] == [
        ["0.99", "0.5"]
    ]
    assert "8 of 8 runs done" in table[-1]


def test_it_is_an_optuna_study(training, tmp_path):
    folder = sweep(tmp_path / "s")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    )
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    assert len(study.trials) == 8
    assert study.best_params == {"model.loss.threshold": 0.99, "model.loss.weight": 0.5, "seed": 1}
    assert study.best_value == pytest.approx(50 + 9.9 - 0.5 + 0.25)


def test_a_finished_sweep_runs_nothing(training, tmp_path, capsys):
    sweep(tmp_path / "s")
    sweep(tmp_path / "s")
    assert len(training.commands) == 8
    assert "8 of 8 runs done" in capsys.readouterr().out
    (tmp_path / "s" / "threshold-0.9_weight-0.5_seed-1" / "run.json").unlink()  # the folders are the truth
    sweep(tmp_path / "s")
    assert training.trials()[8:] == ["threshold-0.9_weight-0.5_seed-1"]


def test_interruption_and_resumption(training, tmp_path):
    training.cut_at = 3
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "s")
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [run["status"] for run in result["runs"]] == ["completed"] * 2 + ["interrupted"] + ["missing"] * 5
    sweep(tmp_path / "s")
    assert len(training.commands) == 3 + 6
    assert training.trials()[3] == training.trials()[2]
    assert "--resume" in training.commands[3]
    assert not any(
        "--resume" in c or "--overwrite" in c for c in training.commands[:3] + training.commands[4:]
    )


def test_a_failure_is_recorded_and_the_rest_goes_on(training, tmp_path, capsys):
    training.fails = {"threshold-0.9_weight-1_seed-0"}
    with pytest.raises(
        SosrError, match=r"1 of 8 trials failed: threshold-0\.9_weight-1_seed-0.*same command"
    ):
        sweep(tmp_path / "s")
    assert len(training.commands) == 8
    out = capsys.readouterr().out
    assert "failed (exit code 1): the GPU is on fire" in out
    assert "failed: seed 0" in out
    assert "7 of 8 runs done" in out
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [(r["trial"], r["error"]) for r in result["runs"] if r["status"] == "failed"] == [
        ("threshold-0.9_weight-1_seed-0", "the GPU is on fire")
    ]
    group = next(g for g in result["summary"] if g["failed_seeds"])
    assert (group["n"], group["std"], group["failed_seeds"]) == (1, None, [0])

    # Tried again: first from its checkpoint, and from the start when that fails too.
    with pytest.raises(SosrError, match="1 of 8"):
        sweep(tmp_path / "s")
    training.fails = set()
    sweep(tmp_path / "s")
    assert training.trials()[8:] == ["threshold-0.9_weight-1_seed-0"] * 2
    assert "--resume" in training.commands[8]
    assert "--overwrite" in training.commands[9]
    assert "8 of 8 runs done" in capsys.readouterr().out


def test_what_failed_further_on_is_resumed_again(training, tmp_path):
    training.fails, training.progresses = {"threshold-0.9_weight-1_seed-0"}, True
    for _ in range(3):
        with pytest.raises(SosrError, match="1 of 8"):
            sweep(tmp_path / "s")
    assert ["--resume" in c for c in training.commands[8:]] == [True, True]


def test_stop_on_error(training, tmp_path):
    training.fails = {"threshold-0.9_weight-1_seed-0"}
    with pytest.raises(SosrError, match=r"--stop-on-error: .* the GPU is on fire"):
        sweep(tmp_path / "s", stop_on_error=True)
    assert len(training.commands) == 2


def test_a_run_that_says_nothing_has_failed(training, tmp_path, monkeypatch):
    def exits_well(command, log, lock):
        log.parent.mkdir(exist_ok=True)
        log.write_text("")
        return 0

    monkeypatch.setattr(sweep_module, "run_process", exits_well)
    with pytest.raises(SosrError, match="8 of 8 trials failed"):
        sweep(tmp_path / "s")


def test_extension(training, tmp_path):
    sweep(tmp_path / "s", seeds="0")
    larger = ["model.loss.threshold=0.8,0.9,0.99", "model.loss.weight=0.5,1"]
    with pytest.raises(ConfigError, match="--extend"):
        sweep(tmp_path / "s", seeds="0", settings=larger)
    with pytest.raises(ConfigError, match="--extend"):
        sweep(tmp_path / "s", seeds="0,1")
    assert len(training.commands) == 4
    sweep(tmp_path / "s", seeds="0,2", settings=larger, extend=True)
    assert len(training.commands) == 12
    assert len(set(training.trials())) == 12  # the finished ones were kept
    with pytest.raises(ConfigError, match=r"without model\.loss\.threshold: 0\.8; seeds: 2"):
        sweep(tmp_path / "s", seeds="0", extend=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ["model.loss.threshold=0.9,0.99"]}, "Other keys"),
        ({"config": "pretrain/resnet18_sosr_8xb32-90e_in1k"}, "holds a sweep of demo"),
        ({"total_epochs": 3}, "the options"),
        ({"cfg_options": ["model.num_classes=7"]}, "the options"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(changes, message, training, tmp_path):
    sweep(tmp_path / "s")
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path / "s", extend=True, **changes)
    assert len(training.commands) == 8


def test_an_edited_config_is_refused(training, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("model = dict(loss=dict(type='SOSRLoss', threshold=0.99, weight=0.5), num_classes=3)\n")
    sweep(tmp_path / "s", config=str(path))
    path.write_text(path.read_text().replace("=3", "=4"))
    with pytest.raises(ConfigError, match=r"mine\.py.* changed since"):
        sweep(tmp_path / "s", config=str(path))


def test_a_run_folder_is_no_sweep(training, tmp_path):
    write_run_record(tmp_path, {"schema_version": 1})
    with pytest.raises(ConfigError, match="holds a run"):
        sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sweep.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a sweep's file"):
        sweep(tmp_path / "other")


def test_another_metric_needs_no_new_run(training, tmp_path, capsys):
    sweep(tmp_path / "s")
    capsys.readouterr()
    sweep(tmp_path / "s", metric="accuracy/ece")
    assert len(training.commands) == 8
    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert [line.split()[:2] for line in table[1:5] if "best" in line] == [["0.9", "1"]]  # less is better
    with pytest.raises(ConfigError, match=r"--metric accuracy/nll.*accuracy/ece, accuracy/top1"):
        sweep(tmp_path / "s", metric="accuracy/nll")  # the config's validation gives it, these runs did not
    assert direction_of("accuracy/nll") == "minimize"
    assert direction_of("accuracy/top5") == "maximize"


def test_differing_data_is_told(training, tmp_path, capsys):
    folder = sweep(tmp_path / "s")
    assert "WARNING" not in capsys.readouterr().out
    path = folder / "threshold-0.9_weight-1_seed-1" / "run.json"
    path.write_text(path.read_text().replace('"fingerprint": "t"', '"fingerprint": "u"'))
    sweep(tmp_path / "s")
    assert "did not see the same data" in capsys.readouterr().out


def test_dry_run(training, tmp_path, capsys):
    sweep(tmp_path / "s", dry_run=True)
    out = capsys.readouterr().out
    assert "[8/8] threshold-0.99_weight-1_seed-1: to run" in out
    assert "--no-publish" in out
    assert not (tmp_path / "s").exists()
    training.cut_at = 2
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "s")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    capsys.readouterr()
    sweep(tmp_path / "s", dry_run=True)
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()[:3]] == [
        "done",
        "resume",
        "run",
    ]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")} == before
    assert len(training.commands) == 2


# ---- several processes ---------------------------------------------------------------------------------------------


def test_a_point_that_another_process_runs_is_left_to_it(training, tmp_path, capsys):
    name = "threshold-0.9_weight-1_seed-0"
    with hold_lock(tmp_path / "s" / ".locks" / f"{name}.lock", wait=False) as lock:
        assert lock is not None
        sweep(tmp_path / "s")
    assert len(training.commands) == 7
    assert name not in training.trials()
    out = capsys.readouterr().out
    assert f"{name}: another process is running it" in out
    assert "7 of 8 runs done" in out
    sweep(tmp_path / "s")
    assert training.trials()[7:] == [name]


SWEEP_OF_ONE = """
import signal, sys
from pathlib import Path
from sosr_det.engine.studies.process import hold_lock, run_process
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
folder = Path(sys.argv[1])
trial = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
with hold_lock(folder / "x.lock", wait=False) as held:
    run_process(trial, folder / "log", held)
"""


@pytest.fixture
def sweep_of_one(tmp_path):
    """A process that holds a lock and runs a trial that waits; and the trial's process id."""
    process = subprocess.Popen([sys.executable, "-c", SWEEP_OF_ONE, str(tmp_path)])
    log = tmp_path / "log"

    def told():
        assert process.poll() is None, "the sweep ended"
        return log.exists() and log.read_text().endswith("\n") and log.read_text().split()[-1].isdigit()

    wait_until(told)
    trial = int(log.read_text().split()[-1])
    yield process, trial
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(trial, signal.SIGKILL)


def test_a_trial_keeps_its_lock_when_the_sweep_is_killed(sweep_of_one, tmp_path):
    """The lock is the trial's: whoever looks finds it held until the trial itself has ended."""
    process, trial = sweep_of_one
    process.kill()
    process.wait()
    assert not can_lock(tmp_path / "x.lock")
    os.kill(trial, signal.SIGKILL)
    wait_until(lambda: can_lock(tmp_path / "x.lock"))


def test_ending_the_sweep_ends_its_trial(sweep_of_one, tmp_path):
    process, _ = sweep_of_one
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert can_lock(tmp_path / "x.lock")


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def can_lock(path):
    with hold_lock(path, wait=False) as held:
        return held is not None


def test_last_error(tmp_path):
    log = tmp_path / "log"
    for text, expected in (
        ("a\nerror: first\nerror: second\nlate noise\n", "second"),
        ("a\nSegmentation fault\n\n", "Segmentation fault"),
        ("", "no output"),
    ):
        log.write_text(text)
        assert last_error(log) == expected


def test_command_line(monkeypatch, tmp_path):
    import sosr_det.engine.sweep as package
    from sosr_det.cli.sweep import sweep as command

    asked = []
    monkeypatch.setattr(package, "run_sweep", asked.append)
    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    assert runner.invoke(app, [CONFIG]).exit_code == 0
    assert asked.pop() == SweepOptions(CONFIG)
    arguments = (
        "--set a=1,2 --set b=3 --seeds 4,5 --metric m --work-dir w --extend --stop-on-error --dry-run --data-root d "
        "--backbone x --total-epochs 6 --amp --registry r --cfg-options c=7 --cfg-options e=8"
    )
    none = runner.invoke(app, [CONFIG, "--total-epochs", "0"])
    assert (none.exit_code, asked) == (2, [])
    assert "total-epochs" in none.output
    assert runner.invoke(app, [CONFIG, *arguments.split()]).exit_code == 0
    assert asked == [
        SweepOptions(
            CONFIG, ["a=1,2", "b=3"], "4,5", "m", Path("w"), extend=True, stop_on_error=True, dry_run=True,
            data_root=Path("d"), backbone="x", total_epochs=6, amp=True, registry="r", cfg_options=["c=7", "e=8"],
        )
    ]  # fmt: skip


# ---- for real ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_trials(demo, tmp_path, capsys, monkeypatch):
    """Two trainings in processes of their own: one that works, one whose learning rate the optimizer refuses."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    no_workers = [
        f"{part}_dataloader.{key}"
        for part in ("train", "val")
        for key in ("num_workers=0", "persistent_workers=False")
    ]
    with pytest.raises(SosrError, match=r"1 of 2 trials failed: lr-1-\w+_threshold-0\.9_seed-0"):
        sweep(
            tmp_path / "s", settings=["optim_wrapper.optimizer.lr=0.01,-1", "model.loss.threshold=0.9"], seeds="0",
            data_root=demo.imagenet, total_epochs=1, cfg_options=no_workers,
        )  # fmt: skip
    out = capsys.readouterr().out
    assert "Invalid learning rate: -1" in out
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert result["runs"][0]["status"] == "completed"
    record = json.loads((tmp_path / "s" / "lr-0.01_threshold-0.9_seed-0" / "run.json").read_text())
    assert result["runs"][0]["value"] == record["best"]["val"]["accuracy/top1"]
    assert "threshold=0.9" in record["config_text"]
    assert "published" not in record
    assert "Invalid learning rate: -1" in result["runs"][1]["error"]
