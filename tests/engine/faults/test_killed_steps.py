"""Killed and resumed, bit by bit: with accumulated gradients that were pending, and in trainings that count steps."""

from __future__ import annotations

import pytest
import torch

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import differences, losses


@pytest.mark.parametrize("step", [8, 15, 20])
def test_pending_gradients_of_an_epochs_end(drill, step):
    """Six batches an epoch, four to an update: after the first and the third epoch two wait for the next."""
    if not (drill.folder / "accumulated").exists():
        assert drill.train("accumulated", "--accumulate", "4").code == 0
    whole = drill.folder / "accumulated"
    name = drill.new("pending")
    first, second = drill.until_done(name, "--accumulate", "4", faults=[["die_at_step", step, "before"]])
    assert (first.code, second.code) == (-9, 0), second.text
    assert differences(whole / "epoch_4.pth", drill.folder / name / "epoch_4.pth") == []
    assert losses(drill.folder / name) == losses(whole)
    saved = torch.load(whole / "epoch_3.pth", weights_only=True)["pending_gradients"]
    assert set(saved) == {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias",
                          "head.weight", "head.bias"}  # fmt: skip
    assert torch.load(whole / "epoch_4.pth", weights_only=True)["pending_gradients"] is None


@pytest.mark.parametrize("sampler", ["InfiniteSampler", "DefaultSampler"])
@pytest.mark.parametrize("workers", [0, 2])
def test_trainings_that_count_steps(drill, sampler, workers):
    config = drill.variant(
        f"{sampler}.json",
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": 20, "val_interval": 8},
        train_dataloader={"sampler": {"type": sampler, "shuffle": True}},
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 6},
            {"type": "MultiStepLR", "by_epoch": False, "milestones": [9, 16], "gamma": 0.3},
        ],
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 5, "max_keep_ckpts": 2,
                           "save_best": "accuracy/top1", "rule": "greater"},
        },
        log_processor={"type": "LogProcessor", "by_epoch": False, "window_size": 10},
    )  # fmt: skip
    whole = drill.folder / f"steps-{sampler}"
    if not whole.exists():
        outcome = drill.train(whole.name, config=config)
        assert outcome.code == 0, outcome.text
    name = drill.new("steps")
    faults = [["die_at_step", 8, "inside"], ["die_at_step", 13, "after", 3]]
    outcomes = drill.until_done(name, faults=faults, workers=workers, config=config)
    assert [each.code for each in outcomes] == [-9, -9, 0], outcomes[-1].text
    assert differences(whole / "iter_20.pth", drill.folder / name / "iter_20.pth") == []
    assert losses(drill.folder / name) == losses(whole)
    assert sorted(losses(whole)) == list(range(1, 21))
