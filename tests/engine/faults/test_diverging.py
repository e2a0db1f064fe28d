"""A loss or weights that are no numbers end the run, are explained, and never replace a good checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sosr_det.analysis.bench_faults.arrange import at_step
from sosr_det.analysis.bench_faults.drill import differences, losses
from sosr_det.engine.checkpoints.state import refuse_non_finite
from sosr_det.engine.hooks.divergence import DivergenceHook
from sosr_det.errors import TrainingDivergedError


def spoil_weights(step, when):
    def spoil(runner):
        with torch.no_grad():
            runner.model.head.weight[0, 0] = math.nan

    at_step(step, spoil, when)


def spoil_weights_and_remember_images(step, seen):
    """The last images that a training without worker processes has read are those of its step."""
    from sosr_det.data.image_dataset import ClassificationDataset

    read = ClassificationDataset.__getitem__

    def remembered(self, index):
        with open(seen, "a") as stream:
            stream.write(f"{index}\n")
        return read(self, index)

    ClassificationDataset.__getitem__ = remembered
    spoil_weights(step, "before")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_run_ends_with_the_images_of_the_step(drill, undisturbed, workers):
    name = drill.new("nan")
    seen = drill.folder / f"{name}.seen"
    spoil = ["spoil_weights", 9, "before"] if workers else ["spoil_weights_and_remember_images", 9, str(seen)]
    failed, done = drill.until_done(name, faults=[spoil], workers=workers)
    assert failed.code == 1
    assert failed.last_line.startswith("error: the loss is nan at epoch 2, step 3")
    assert "epoch_1.pth is the last good checkpoint" in failed.last_line
    told = json.loads((drill.folder / name / "diverged.json").read_text())
    assert {key: told[key] for key in ("epoch", "step", "step_of_run", "rank", "loss")} == {
        "epoch": 2, "step": 3, "step_of_run": 9, "rank": 0, "loss": {"loss": "nan"}
    }  # fmt: skip
    assert told["last_good_checkpoint"] == "epoch_1.pth"
    assert told["lr"] == pytest.approx(0.1)
    assert len(told["samples"]) == len(told["indices"]) == 4
    assert all(Path(sample).is_file() for sample in told["samples"])
    if not workers:
        read = [int(line) for line in seen.read_text().split()]
        # The validation set's own come after the second epoch; nothing was read after this step.
        assert told["indices"] == read[-4:]
    assert done.code == 0
    assert differences(undisturbed / "epoch_4.pth", drill.folder / name / "epoch_4.pth") == []


def test_weights_that_the_last_step_spoiled_are_not_saved(drill, undisturbed):
    name = drill.new("last")
    folder = drill.folder / name
    failed = drill.train(name, before=["spoil_weights", 18, "after"])
    assert failed.code == 1
    assert "the weights are no longer finite (head.weight)" in failed.last_line
    assert {path.name for path in folder.glob("*.pth")} >= {"epoch_1.pth", "epoch_2.pth"}
    assert not (folder / "epoch_3.pth").exists()
    assert drill.train(name, "--resume").code == 0
    assert differences(undisturbed / "epoch_4.pth", folder / "epoch_4.pth") == []
    assert losses(folder) == losses(undisturbed)


def runner_of(model, folder):
    return SimpleNamespace(
        model=model, work_dir=str(folder), epoch=0, iter=0, train_loop=None, optim_wrapper=None,
        train_dataloader=SimpleNamespace(dataset=[]),
    )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_whatever_is_no_number(tmp_path, value):
    with pytest.raises(TrainingDivergedError, match=str(value)):
        DivergenceHook().after_train_iter(
            runner_of(None, tmp_path), 0, {"inputs": []}, {"loss": torch.tensor(value)}
        )
    assert json.loads((tmp_path / "diverged.json").read_text())["loss"] == {"loss": str(value)}
    DivergenceHook().after_train_iter(runner_of(None, tmp_path), 0, {}, {"loss": torch.tensor(1e38)})


def test_paths_of_detection_samples_are_told(tmp_path):
    batch = {"data_samples": [SimpleNamespace(img_path=f"/images/{n}.jpg") for n in range(2)]}
    with pytest.raises(TrainingDivergedError):
        DivergenceHook().after_train_iter(runner_of(None, tmp_path), 4, batch, {"loss": math.nan})
    assert json.loads((tmp_path / "diverged.json").read_text())["samples"] == [
        "/images/0.jpg",
        "/images/1.jpg",
    ]


def test_a_folder_that_cannot_be_written_hides_nothing(tmp_path):
    with pytest.raises(TrainingDivergedError, match="the loss is nan"):
        DivergenceHook().after_train_iter(
            runner_of(None, tmp_path / "gone"), 0, {}, {"loss": torch.tensor(math.nan)}
        )


@pytest.mark.parametrize(("name", "place"), [("0.weight", 0), ("1.running_var", 3), ("1.running_mean", 1)])
def test_what_must_be_finite_in_a_checkpoint(name, place):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 1), torch.nn.BatchNorm2d(6))
    model.register_buffer("mask", torch.full((2,), -math.inf))  # as attention has them
    refuse_non_finite(runner_of(model, "runs"), "runs")
    model.state_dict()[name].view(-1)[place] = math.inf
    with pytest.raises(TrainingDivergedError, match=name):
        refuse_non_finite(runner_of(model, "runs"), "runs")


def test_infinite_gradients_under_a_loss_scaler_are_no_divergence(tmp_path):
    """The scaler leaves the step out and lowers its scale; the loss and the weights stay numbers."""
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    loss = 1e6 * model(torch.ones(1, 2)).sum()
    scaler.scale(loss).backward()
    assert not torch.isfinite(model.weight.grad).all()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before)
    DivergenceHook().after_train_iter(runner_of(model, tmp_path), 0, {}, {"loss": loss})
    refuse_non_finite(runner_of(model, tmp_path), "runs")
