"""A resumed run that cuts its steps otherwise keeps the learning rate, scaled with the batch or not."""

from __future__ import annotations

import pytest
import torch

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import BATCH, STEPS_PER_EPOCH

HALF = f"train_dataloader.batch_size={BATCH // 2}"


def rates(path):
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    return [(each["lr"], each["initial_lr"]) for each in groups]


@pytest.mark.parametrize("how", ["--accumulate", "accumulative_counts"])
def test_half_the_batch_twice(drill, how):
    config = drill.variant("scaled.json", auto_scale_lr={"enable": True, "base_batch_size": 2 * BATCH})
    folder = drill.folder / drill.new("scaled")
    assert drill.train(folder.name, config=config, before=["die_at_step", STEPS_PER_EPOCH + 1]).code == -9
    before = rates(folder / "epoch_1.pth")
    arguments, options = (
        (["--accumulate", "2"], []) if how == "--accumulate" else ([], [f"optim_wrapper.{how}=2"])
    )
    outcome = drill.train(
        folder.name,
        "--resume",
        "--total-epochs",
        "2",
        *arguments,
        config=config,
        cfg_options=[HALF, *options],
    )
    assert outcome.code == 0, outcome.text
    assert rates(folder / "epoch_2.pth")[0][1] == pytest.approx(before[0][1]) == pytest.approx(0.05)


def test_another_rate_is_still_refused(drill):
    """The negative control."""
    config = drill.variant("scaled.json", auto_scale_lr={"enable": True, "base_batch_size": 2 * BATCH})
    folder = drill.folder / drill.new("scaled")
    assert drill.train(folder.name, config=config, before=["die_at_step", STEPS_PER_EPOCH + 1]).code == -9
    options = [HALF, "optim_wrapper.optimizer.lr=0.3"]
    outcome = drill.train(folder.name, "--resume", "--accumulate", "2", config=config, cfg_options=options)
    assert outcome.code == 1
    assert "optim_wrapper.optimizer.lr" in outcome.last_line
