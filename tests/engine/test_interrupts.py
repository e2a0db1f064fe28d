"""Ctrl-C and SIGTERM in training: said in one line, recorded as interrupted, and continued with --resume."""

from __future__ import annotations

import os
import signal

import pytest
from mmengine.config import Config
from mmengine.hooks import IterTimerHook

from sosr_det.cli.main import main
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.signals import stop_signals

CONFIG = "demo/resnet18_ce_1xb32-6e_demo-imagenet"


@pytest.fixture
def train(demo, tmp_path, capsys):
    """`sosr-det train` in this process; returns the exit code and the last line on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(
                [
                    "train", CONFIG, "--work-dir", str(tmp_path / "run"), "--data-root", str(demo.imagenet),
                    "--total-epochs", "2", "--no-publish", *arguments, "--cfg-options",
                    "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
                    "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
                ]
            )  # fmt: skip
        return end.value.code or 0, (capsys.readouterr().err.strip().splitlines() or [""])[-1]

    return run


@pytest.fixture
def ctrl_c():
    """SIGINT is Ctrl-C, as in a terminal: the processes of pytest-xdist ignore it, and so do background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "interrupted; "), (signal.SIGTERM, 75, ""), (signal.SIGUSR1, 75, "")],
)
@pytest.mark.parametrize(
    ("step", "epochs", "place", "file"),
    [
        (2, 1, "epoch 2, step 1 of 2", "mid_epoch_2_iter_3.pth"),
        (3, 2, "2 epochs, 4 steps", "epoch_2.pth"),
    ],
)
def test_a_signal_is_obeyed_when_the_step_is_done_and_saved(
    train, tmp_path, monkeypatch, ctrl_c, number, code, told, step, epochs, place, file
):
    if number == signal.SIGUSR1 and step == 3:
        return  # as SIGTERM
    with monkeypatch.context() as patch:
        patch.setattr(
            IterTimerHook,
            "before_train_iter",
            lambda self, runner, *args, **kwargs: runner.iter == step and os.kill(os.getpid(), number),
        )
        before = signal.getsignal(signal.SIGTERM)
        assert train() == (
            code, f"{told}stopped by {number.name} after {place}; saved {file}, continue with --resume"
        )  # fmt: skip
    assert signal.getsignal(signal.SIGTERM) == before  # processes that are forked later end at once
    record = read_run_record(tmp_path / "run")
    assert (record["status"], len(record["epochs"])) == ("stopped", epochs)
    assert "val" not in record["epochs"][-1] or epochs == 1
    assert train("--resume")[0] == 0
    record = read_run_record(tmp_path / "run")
    assert (record["status"], len(record["epochs"])) == ("completed", 2)
    assert "val" in record["epochs"][-1]  # made up for


def test_a_signal_in_the_validation_of_a_saved_epoch(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            IterTimerHook,
            "before_val_iter",
            lambda self, *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM),
        )
        code, line = train()
    assert (code, line) == (
        75, "stopped by SIGTERM after 1 epoch, 2 steps; saved epoch_1.pth, continue with --resume"
    )  # fmt: skip
    record = read_run_record(tmp_path / "run")
    assert [each["epoch"] for each in record["epochs"] if "val" in each] == []
    assert train("--resume")[0] == 0
    assert [each["epoch"] for each in read_run_record(tmp_path / "run")["epochs"] if "val" in each] == [1, 2]


def test_the_second_signal_does_not_wait(train, tmp_path, monkeypatch, ctrl_c):
    def twice(self, runner, *args, **kwargs):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(IterTimerHook, "before_train_iter", twice)
    assert train() == (143, "interrupted; continue with --resume")
    assert read_run_record(tmp_path / "run")["status"] == "interrupted"


def test_ctrl_c_before_the_first_checkpoint_does_not_promise_a_resume(train, tmp_path, monkeypatch):
    def stop(self, runner, *args, **kwargs):
        if runner.iter == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(IterTimerHook, "before_train_iter", stop)
    code, line = train()
    assert (code, line) == (130, "interrupted; no checkpoint was saved yet, start again with --overwrite")
    assert read_run_record(tmp_path / "run")["status"] == "interrupted"


def test_ctrl_c_while_mmengine_formats_the_config(train, tmp_path, monkeypatch):
    def formatted(self):
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise SyntaxError("Failed to format the config file\n" + "line\n" * 200)  # noqa: B904  as mmengine does

    monkeypatch.setattr(Config, "pretty_text", property(formatted))
    code, line = train()
    assert code == 130
    assert line.startswith("interrupted; no step was made")
    assert not (tmp_path / "run").exists()


def test_another_failure_stays_one(train, tmp_path, monkeypatch):
    """The negative control."""

    def fail(self, runner, *args, **kwargs):
        if runner.iter == 1:
            raise ZeroDivisionError("no")

    monkeypatch.setattr(IterTimerHook, "before_train_iter", fail)
    assert train()[0] == 1
    assert read_run_record(tmp_path / "run")["status"] == "failed"


def test_a_request_that_was_obeyed_is_not_made_a_failure_by_the_next():
    """torchrun and srun end the slower ranks with SIGTERM when the first has stopped."""
    with stop_signals() as signals:
        signals.can_save = True
        signals.handle(signal.SIGUSR1, None)
        signals.saved = True
        signals.handle(signal.SIGTERM, None)
        signals.saved = False
        with pytest.raises(SystemExit) as end:
            signals.handle(signal.SIGTERM, None)
    assert end.value.code == 143
