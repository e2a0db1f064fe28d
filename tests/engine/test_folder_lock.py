"""Two trainings in one folder."""

from __future__ import annotations

import os
import signal

import pytest

from sosr_det.engine import folder_lock
from sosr_det.engine.folder_lock import LOCK_NAME, folders_released, hold_folder
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.engine.work_dir import OccupiedError
from sosr_det.errors import ConfigError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.3)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in ``tmp_path``, as far as the lock tells."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hold_folder(tmp_path)
            os.write(told, b"1")
            signal.pause()
        finally:
            os._exit(0)
    assert os.read(ready, 1) == b"1"
    yield pid
    for descriptor in (ready, told):
        os.close(descriptor)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}, {"auto_resume": True}])
def test_a_training_keeps_out_of_a_folder_that_another_trains_in(tmp_path, holder, how):
    before = sorted(tmp_path.iterdir())
    options = TrainOptions(
        "demo/resnet18_sosr_1xb32-6e_demo-imagenet", work_dir=tmp_path, publish=False, **how
    )
    with pytest.raises(OccupiedError, match=f"process {holder} on .* is training in"):
        run_training(options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_killed_process_holds_nothing(tmp_path, holder):
    """Nor do its children: data loaders live on for some seconds."""
    os.kill(holder, signal.SIGKILL)
    with folders_released():
        hold_folder(tmp_path)
        assert f"process {os.getpid()} " in (tmp_path / LOCK_NAME).read_text()
        hold_folder(tmp_path)  # again changes nothing


def test_children_do_not_hold_what_their_parent_held(tmp_path):
    with folders_released():
        hold_folder(tmp_path)
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        assert not (tmp_path / LOCK_NAME).exists()
        with folders_released():
            hold_folder(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    hold_folder(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", unsupported)
    hold_folder(tmp_path)
    assert "has no locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder_lock.os, "open", read_only)
    with pytest.raises(ConfigError, match="Read-only file system"):
        hold_folder(tmp_path)
