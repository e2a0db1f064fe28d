"""Losses that follow the epoch, in real runs: schedules of P and beta, and online label smoothing."""

from __future__ import annotations

import json

import torch

from sosr_det.engine.configs import find_config
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions

OPTIONS = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
]


def train(demo, work_dir, loss: str, **changes):
    base = find_config("demo/resnet18_ce_1xb32-6e_demo-imagenet").resolve()
    config = work_dir.parent / "c.py"
    config.write_text(f'_base_ = "{base}"\nmodel = dict(loss=dict(_delete_=True, {loss}))\n')
    return run_training(
        TrainOptions(
            str(config),
            work_dir=work_dir,
            data_root=demo.imagenet,
            publish=False,
            cfg_options=OPTIONS,
            **changes,
        )
    )


def test_soft_labels_are_renewed_every_epoch_and_saved(demo, tmp_path):
    work_dir = train(demo, tmp_path / "run", "type='OnlineLabelSmoothing'", total_epochs=1)
    state = torch.load(work_dir / "epoch_1.pth", weights_only=True)["state_dict"]
    soft = state["loss_module.soft_labels"]
    torch.testing.assert_close(soft.sum(1), torch.ones(len(soft)))
    assert not torch.allclose(soft, torch.full_like(soft, 1 / len(soft)))  # one epoch of predictions is in it
    assert state["loss_module._extra_state"].sum() == 0  # and the gathering begins anew


def test_schedules_follow_the_epoch_and_a_resumed_run_goes_on_with_them(demo, tmp_path):
    loss = (
        "type='SOSRLoss', threshold=0.05, base=dict(type='CrossEntropy', label_smoothing=0.1), "
        "weight=dict(type='LinearSchedule', start=0.0, end=4.0, begin_epoch=0, end_epoch=4)"
    )
    work_dir = train(demo, tmp_path / "run", loss, total_epochs=1)
    first = json.loads((work_dir / "run.json").read_text())["epochs"]
    assert first[0]["train"]["loss_sosr"] == 0
    train(demo, tmp_path / "run", loss, total_epochs=2, resume=True)
    epochs = json.loads((work_dir / "run.json").read_text())["epochs"]
    assert len(epochs) == 2
    assert epochs[1]["train"]["loss_sosr"] > 0  # weight 1 in the second epoch
