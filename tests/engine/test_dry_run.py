"""`sosr-det train --dry-run`: tries everything, changes nothing, and says what it found."""

from __future__ import annotations

import hashlib
import tempfile
from multiprocessing.util import get_temp_dir

import pytest
from typer.testing import CliRunner

from sosr_det.cli.main import app
from sosr_det.engine.dry_run import dry_run
from sosr_det.engine.dry_run.estimate import Work, disk_bytes, run_seconds
from sosr_det.engine.dry_run.report import Report
from sosr_det.engine.train_options import TrainOptions

CONFIG = "demo/resnet18_sosr_1xb32-6e_demo-imagenet"
SMALL = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "train_dataloader.batch_size=16",
]
MIB = 2**20

# ---- estimates, worked by hand -------------------------------------------------------------------------------------


def test_time_of_steps_and_validations():
    work = Work(steps=1000, validations=3, batches_per_validation=11)
    # The first batch counts once, the median of the others (2 s) for the other ten.
    assert run_seconds(work, 0.25, [5.0, 1.0, 2.0, 9.0]) == (250.0, 25.0)
    assert run_seconds(work, 0.25, [5.0]) == (250.0, 55.0)
    assert run_seconds(Work(1000, 0, 0), 0.25, []) == (250.0, 0.0)


def test_disk_of_kept_best_and_half_written_checkpoints():
    logs = 50 * MIB
    # 2 kept of 100, 1 best; one more while a new one is written.
    assert disk_bytes(100 * MIB, 40 * MIB, kept=2, saves=100, best=1) == (240 * MIB + logs, 340 * MIB + logs)
    assert disk_bytes(100 * MIB, 40 * MIB, kept=-1, saves=3, best=0)[0] == 300 * MIB + logs
    assert disk_bytes(100 * MIB, 40 * MIB, kept=5, saves=3, best=0)[0] == 300 * MIB + logs


def test_a_report_counts_what_failed_and_what_was_not_tried_is_not_ok():
    report = Report()
    report.add("config", True, "a new run\n   in x")
    assert report.ok
    assert report.lines() == ["config  ok  a new run in x", "", "everything that was tried works"]
    report.add("save", None, "no step")
    assert not report.ok
    report.add("training", False, "word " * 60)
    report.estimates["time"] = "about 3 s"
    lines = report.lines()
    assert lines[-1] == "1 of 3 checks failed: training"
    assert "time  about 3 s" in lines
    assert lines[0].split() == ["config", "ok", "a", "new", "run", "in", "x"]
    assert max(map(len, lines)) <= 110
    assert report.names("save")
    assert not report.names("sav")


# ---- whole dry runs ------------------------------------------------------------------------------------------------


def options(demo, work_dir, **changes):
    changes = {"data_root": demo.imagenet, "cfg_options": SMALL, **changes}
    return TrainOptions(CONFIG, work_dir=work_dir, **changes)


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    get_temp_dir()  # loader workers' sockets stay where they are: below tmp_path their names may be too long
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_training_that_would_work(demo, registry, tmp_path, temporary):
    before = contents(registry)
    result = CliRunner().invoke(
        app,
        [
            "train", CONFIG, "--dry-run", "--work-dir", str(tmp_path / "run"), "--data-root", str(demo.imagenet),
            *(part for each in SMALL for part in ("--cfg-options", each)),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = {line.split("  ")[0]: line for line in result.output.splitlines() if "  ok  " in line}
    assert list(rows) == [
        "config", "data and model", "training", "weights", "save", "resume", "validation", "disk space",
    ]  # fmt: skip
    assert "80 images of 20 classes" in rows["data and model"]
    assert "5 steps of 1 x 16 images" in rows["training"]
    assert "everything that was tried works" in result.output
    flat = " ".join(result.output.split())
    assert "30 steps of" in flat  # 6 epochs of 5
    assert "and 6 validations of" in flat
    assert not (tmp_path / "run").exists()
    assert contents(registry) == before
    assert not list(temporary.iterdir())


def test_an_occupied_folder_and_absent_weights_are_told_and_the_rest_is_tried(
    demo, pretrained, registry, tmp_path, temporary
):
    before = contents(pretrained[1])
    lines = []
    assert not dry_run(options(demo, pretrained[1], backbone="sosr://nothing"), lines.append)
    text = "\n".join(lines)
    assert "2 of 9 checks failed: weights, work directory" in text
    assert "already holds a run" in text
    assert "there is no 'nothing'" in text
    assert contents(pretrained[1]) == before
    assert not list(temporary.iterdir())


def test_a_resumption_says_from_where_and_leaves_the_run_alone(demo, pretrained, registry, temporary):
    before = contents(pretrained[1])
    lines = []
    resumed = options(
        demo,
        pretrained[1],
        resume=True,
        total_epochs=3,
        cfg_options=[*SMALL[:2], "train_dataloader.batch_size=32"],
    )
    assert dry_run(resumed, lines.append), "\n".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "from epoch_2.pth: 2 epochs and 4 steps are done" in text
    assert "2 steps of" in text  # of the third epoch
    assert "1 validation of" in text
    assert contents(pretrained[1]) == before


def test_wrong_classes_are_found_and_what_needs_a_step_is_not_tried(demo, registry, tmp_path, temporary):
    lines = []
    assert not dry_run(
        options(demo, tmp_path / "a", cfg_options=[*SMALL, "model.num_classes=7"]), lines.append
    )
    assert any("data has 20 classes" in line for line in lines)
    assert any(line.startswith("resume") and "not run" in line for line in lines)


def test_a_full_disk_and_a_save_that_brings_back_something_else_are_found(
    demo, registry, tmp_path, temporary, monkeypatch
):
    from sosr_det.engine.runner import EngineRunner

    resume = EngineRunner.resume

    def resume_and_spoil(self, *arguments, **settings):
        resume(self, *arguments, **settings)
        next(self.model.parameters()).data.flatten()[0] += 1e-3

    monkeypatch.setattr(EngineRunner, "resume", resume_and_spoil)
    free = type("Usage", (), {"free": 10 * MIB})
    monkeypatch.setattr("sosr_det.engine.dry_run.run.shutil.disk_usage", lambda _: free)
    lines = []
    assert not dry_run(options(demo, tmp_path / "run"), lines.append)
    assert any(line.startswith("resume") and "FAILED" in line for line in lines)
    assert any("the model is not what it was" in line for line in lines)
    assert lines[-1] == "2 of 8 checks failed: resume, disk space"
