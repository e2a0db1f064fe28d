"""A whole small training: what is shown, what is left in metrics.jsonl, and how a resumed run goes on in it."""

from __future__ import annotations

import json

import pytest

from sosr_det.engine.config_comparison import config_differences
from sosr_det.engine.configs import load_config
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.telemetry.metrics_file import read_metrics
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import CheckpointError, ConfigError

CONFIG = "demo/resnet18_sosr_1xb32-6e_demo-imagenet"
SMALL = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "train_dataloader.batch_size=16",
    "default_hooks.logger.interval=2",
]


def options(demo, work_dir, **changes):
    changes = {"total_epochs": 1, "publish": False, **changes}
    return TrainOptions(CONFIG, work_dir=work_dir, data_root=demo.imagenet, cfg_options=SMALL, **changes)


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """(work directory, lines on stdout, lines on stderr) of one epoch of 5 steps, recorded every 2 steps."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    work_dir = tmp_path_factory.mktemp("telemetry") / "run"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        run_training(options(demo, work_dir))
    return work_dir, out.getvalue().splitlines(), err.getvalue().splitlines()


def test_a_run_shows_some_short_lines_and_no_dump_of_its_config(run):
    _, out, err = run
    timed = [line for line in out if line[2:3] == ":"]
    assert [line[9:].partition(":")[0] for line in timed] == [
        "epoch 1/1 step 2/5", "epoch 1/1 step 4/5", "epoch 1/1 trained", "epoch 1/1 validated",
    ]  # fmt: skip
    assert all(len(line) < 200 for line in timed)
    assert "loss_ce" in timed[0]
    assert "loss_sosr" in timed[0]
    assert "img/s" in timed[0]
    assert "data wait" in timed[0]
    assert "left" in timed[0]
    assert len(out) < 20
    assert sum(line.startswith("full log: ") and line.endswith(".log") for line in out) == 1
    assert err == []
    assert any(line.startswith("best epoch 1: accuracy/top1") for line in out)  # what tools/demo.sh looks for


def test_the_log_file_has_what_is_not_shown(run):
    [log] = run[0].glob("*/*.log")
    text = log.read_text()
    assert "System environment" in text
    assert "custom_hooks = [" in text
    assert "Epoch(train)" in text


def test_every_interval_epoch_and_validation_has_its_record(run):
    found = read_metrics(run[0])
    assert [(record["kind"], record["epoch"], record["step"]) for record in found] == [
        ("train", 1, 2), ("train", 1, 4), ("epoch", 1, 5), ("val", 1, 5),
    ]  # fmt: skip
    first = found[0]
    assert first.keys() >= {
        "loss", "loss_ce", "loss_sosr", "lr", "momentum", "grad_norm", "img_per_s", "data_wait_fraction",
        "seconds_per_step", "memory_mib", "memory_of", "eta_seconds", "time",
    }  # fmt: skip
    assert first["momentum"] == 0.9
    assert 0 < first["grad_norm"] < 1e4
    assert 0 <= first["data_wait_fraction"] < 1
    assert first["img_per_s"] == pytest.approx(16 / first["seconds_per_step"], rel=0.01)
    assert first["loss"] == pytest.approx(first["loss_ce"] + first["loss_sosr"])
    assert found[2]["seconds"] >= found[2]["seconds_per_step"] * 5 * 0.99
    assert found[3]["accuracy/top1"] == read_run_record(run[0])["epochs"][0]["val"]["accuracy/top1"]


def test_tensorboards_source_has_the_same_gradient_norms(run):
    [scalars] = run[0].glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    norms = [line["gradient_norm"] for line in lines if "gradient_norm" in line]
    assert norms == [record["grad_norm"] for record in read_metrics(run[0]) if record["kind"] == "train"]


def test_figures_of_log_intervals_are_no_means_of_the_epoch(run):
    trained = read_run_record(run[0])["epochs"][0]["train"]
    assert "img_per_s" in trained
    assert not {"gradient_norm", "memory_mib", "data_wait_fraction"} & trained.keys()


def test_a_resumed_run_goes_on_in_the_file_where_its_checkpoint_is(run, demo, tmp_path, capsys):
    import shutil

    work_dir = tmp_path / "run"
    shutil.copytree(run[0], work_dir)
    whole = read_metrics(work_dir)
    # Killed later than at its checkpoint of step 5: records of steps that will be made again, the last one torn.
    with (work_dir / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "train", "epoch": 2, "step": 7, "loss": -1.0}) + "\n")
        stream.write('{"kind": "train", "epo')
    run_training(options(demo, work_dir, total_epochs=2, resume=True, progress="none"))
    found = read_metrics(work_dir)
    assert found[: len(whole)] == whole
    assert [(record["kind"], record["step"]) for record in found[len(whole) :]] == [
        ("train", 7), ("train", 9), ("epoch", 10), ("val", 10),
    ]  # fmt: skip
    assert all(record.get("loss") != -1.0 for record in found)
    assert not [line for line in capsys.readouterr().out.splitlines() if line[2:3] == ":"]  # --progress none


def test_parents_are_recorded_outside_the_config(run, demo, tmp_path, monkeypatch):
    from sosr_det.engine import parent_run

    record = read_run_record(run[0])
    cfg = load_config(CONFIG, SMALL)
    found, lines = parent_run.tell_parent(cfg, run[0], replaced=False)
    assert found["config_digest"] == record["config_digest"]
    assert any(each["key"] == "train_cfg.max_epochs" for each in found["differences"])
    assert lines[0].startswith(f"this run follows {run[0]}")
    cfg.work_dir = str(run[0])
    found, lines = parent_run.tell_parent(cfg, None, replaced=True)
    assert found is None  # a run that is gone is none to come back to
    assert lines[0].startswith(f"this run replaces {run[0]}")
    cfg.work_dir = str(tmp_path)
    assert parent_run.tell_parent(cfg, None, replaced=True) == (None, [])
    with pytest.raises(CheckpointError, match="no run record"):
        parent_run.tell_parent(cfg, tmp_path / "nothing", replaced=False)


def test_the_recorded_config_does_not_differ_from_itself_as_a_run_writes_it(run):
    from sosr_det.engine.recorded_config import recorded_values

    text = read_run_record(run[0])["config_text"]
    assert config_differences(text, recorded_values(text, "run.json")) == []


def test_an_unknown_way_to_show_is_refused_and_leaves_nothing(demo, tmp_path):
    with pytest.raises(ConfigError, match="--progress"):
        run_training(options(demo, tmp_path / "run", progress="loud"))
    assert not (tmp_path / "run").exists()
