"""What a resumed run may do otherwise than it did, and what it may not: told, and exact where it can be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sosr_det.analysis.bench_faults.arrange import die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import differences, losses
from sosr_det.engine.resume.continuity import Setup, plan_resume
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.telemetry.metrics_file import read_metrics
from sosr_det.errors import ConfigError


@pytest.fixture(scope="module")
def killed(zygote, request):
    """A run that was killed in its third epoch, saved two batches into it."""
    zygote.module = str(request.path)
    assert zygote.train("killed-in-third", before=["die_at_step", 15, "after", 2]).code == -9
    return zygote.folder / "killed-in-third"


def rates(folder):
    """Learning rate of every step."""
    return {each["step"]: each["lr"] for each in read_metrics(folder) if each["kind"] == "train"}


REFUSED = {
    "seed": (["--seed", "6"], [], "its seed is 5, not 6"),
    "batch size": ([], ["train_dataloader.batch_size=8"], "its optimizer steps are over 1 x 4 = 4 samples"),
    "accumulation": (["--accumulate", "2"], [], "over 1 x 4 x accumulate 2 = 8"),
    "fewer epochs than made": (["--total-epochs", "1"], [], "2 epochs"),
    "another setting": ([], ["optim_wrapper.optimizer.weight_decay=0.1"], "weight_decay: 0.0005 -> 0.1"),
    "the schedule": ([], ["param_scheduler.1.gamma=0.5"], "gamma: 0.3 -> 0.5"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_another_experiment_is_refused_and_named(drill, killed, what):
    arguments, cfg_options, words = REFUSED[what]
    name = drill.copy(killed, "refused")
    before = {path.name: path.read_bytes() for path in (drill.folder / name).glob("*.pth")}
    outcome = drill.train(name, "--resume", *arguments, cfg_options=cfg_options)
    assert outcome.code == 1
    assert words in outcome.last_line
    assert outcome.last_line.startswith("error: --resume")
    assert {path.name: path.read_bytes() for path in (drill.folder / name).glob("*.pth")} == before


def test_changes_may_be_allowed(drill, killed):
    name = drill.copy(killed, "allowed")
    outcome = drill.train(
        name, "--resume", "--allow-changes", cfg_options=["optim_wrapper.optimizer.weight_decay=0.1"]
    )
    assert outcome.code == 0, outcome.text
    assert "weight_decay: 0.0005 -> 0.1" in outcome.text


def test_the_same_product_goes_on_with_the_same_samples(drill, undisturbed, killed):
    name = drill.copy(killed, "product")
    outcome = drill.train(
        name, "--resume", "--accumulate", "2", cfg_options=["train_dataloader.batch_size=2"]
    )
    assert outcome.code == 0, outcome.text
    assert "1 x 4 = 4 samples a step became 1 x 2 x accumulate 2 = 4" in outcome.text
    saved = torch.load(drill.folder / name / "epoch_4.pth", weights_only=True)
    assert saved["meta"]["iter"] == 48
    # The learning rate of each epoch's end is the one that the run would have had.
    theirs, ours = rates(undisturbed), rates(drill.folder / name)
    assert [ours[12 * epoch] for epoch in (3, 4)] == pytest.approx(
        [theirs[6 * epoch] for epoch in (3, 4)], rel=1e-12
    )


def test_a_place_that_the_new_steps_do_not_divide_is_refused(drill):
    name = drill.new("indivisible")
    assert drill.train(name, "--accumulate", "4", before=["die_at_step", 9, "after", 2]).code == -9
    outcome = drill.train(
        name, "--resume", "--accumulate", "2", cfg_options=["train_dataloader.batch_size=8"]
    )
    assert outcome.code == 1
    assert (
        "8 samples into an epoch, which steps of 1 x 8 x accumulate 2 = 16 samples do not divide"
        in outcome.last_line
    )


SCHEDULES = {
    "milestones": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 6},
        {"type": "MultiStepLR", "by_epoch": True, "milestones": [2, 3], "gamma": 0.3},
    ],
    "cosine": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 9},
        {
            "type": "CosineAnnealingLR", "by_epoch": True, "begin": 1, "end": 4, "T_max": 3, "eta_min": 0.001,
            "convert_to_iter_based": True,
        },
    ],
    "plateau": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 6},
        {"type": "TrainLossPlateauLR", "factor": 0.5, "patience": 0, "threshold": 0.5},
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("total", [3, 6])
def test_another_length_follows_the_schedule_of_that_length(drill, kind, total):
    config = drill.variant(f"{kind}.json", param_scheduler=SCHEDULES[kind])
    whole, cut = drill.new(f"{kind}-{total}"), f"cut-{kind}"
    if not (drill.folder / cut).exists():
        assert drill.train(cut, config=config, before=["die_at_step", 15, "before", 2]).code == -9
    assert drill.train(whole, "--total-epochs", str(total), config=config).code == 0
    name = drill.copy(drill.folder / cut, "length")
    outcome = drill.train(name, "--resume", "--total-epochs", str(total), config=config)
    assert outcome.code == 0, outcome.text
    assert f"4 epochs became {total}" in outcome.text
    expected, found = rates(drill.folder / whole), rates(drill.folder / name)
    assert set(expected) == set(found) == set(range(1, 6 * total + 1))
    later = range(15, 6 * total + 1)
    assert [found[step] for step in later] == pytest.approx([expected[step] for step in later], rel=1e-12)
    if kind == "cosine":  # the negative control: the schedules of 4 epochs and of this many differ
        assert found[13] != pytest.approx(expected[13], rel=1e-3)


def test_auto_resume(drill, undisturbed):
    """Of nothing, of a run that has saved nothing, and of one that is completed."""
    name = drill.new("auto")
    assert drill.train(name, "--auto-resume", before=["die_at_step", 2]).code == -9
    began = drill.train(name, "--auto-resume")
    assert began.code == 0, began.text
    assert "resuming" not in began.text
    folder = drill.folder / name
    assert differences(undisturbed / "epoch_4.pth", folder / "epoch_4.pth") == []
    again = drill.train(name, "--auto-resume")
    assert again.code == 0, again.text
    assert "resuming from epoch_4.pth: 4 epochs, 24 steps" in again.text
    record = read_run_record(folder)
    assert (record["status"], len(record["epochs"])) == ("completed", 4)
    assert record["best"] == read_run_record(undisturbed)["best"]
    assert losses(folder) == losses(undisturbed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fresh"], "--fresh allows --resume and --auto-resume"),
        (["--resume"], "there is nothing to resume"),
        (["--resume", "--overwrite"], "choose one"),
    ],
)
def test_refused_where_there_is_no_run(drill, arguments, words):
    name = drill.new("none")
    outcome = drill.train(name, *arguments)
    assert outcome.code == 1
    assert words in outcome.last_line
    assert not (drill.folder / name).exists()


def test_data_of_another_size(drill, killed):
    other = drill.folder / "fewer"
    shutil.copytree(drill.folder / "images", other)
    next((other / "train").rglob("*.png")).unlink()
    name = drill.copy(killed, "fewer-data")
    outcome = drill.train(name, "--resume", "--data-root", str(other))
    assert outcome.code == 1
    assert "trained on 24 samples, and there are 23 now" in outcome.last_line


def test_a_checkpoint_of_mmengines_own_hook(drill, undisturbed):
    """As mmengine writes it, and as earlier versions of this project did: without the engine's state."""
    name = drill.copy(undisturbed, "theirs")
    folder = drill.folder / name
    saved = torch.load(folder / "epoch_3.pth", weights_only=True)
    for path in folder.glob("*.pth*"):
        path.unlink()
    del saved["rng"], saved["pending_gradients"], saved["meta"]["engine"]
    torch.save(saved, folder / "epoch_3.pth")
    outcome = drill.train(name, "--resume")
    assert outcome.code == 0, outcome.text
    assert "goes on from the last whole epoch and not bit by bit" in outcome.text
    assert sorted(losses(folder)) == list(range(1, 25))


def setup(world, batch, accumulate=1, epochs=4, seed=5):
    return Setup(seed, world, batch, accumulate, epochs)


def meta(then, done, samples=64):
    state = {
        "version": 1, "seed": then.seed, "world_size": then.world_size,
        "batch_size_per_device": then.batch_size_per_device, "accumulative_counts": then.accumulative_counts,
        "total_epochs": then.total_epochs, "total_steps": None, "num_samples": samples,
        "batches_per_epoch": samples // then.batch_samples, "batches_done": done,
    }  # fmt: skip
    return {"epoch": 1, "iter": 9, "engine": state}


@pytest.mark.parametrize(
    ("then", "now", "done"),
    [
        ((4, 4), (2, 8), 3),  # fewer processes, larger batches
        ((4, 4), (2, 4, 2), 6),  # fewer processes, accumulation
        ((2, 4, 2), (1, 4, 4), 12),
        ((1, 16), (4, 4), 3),
    ],
)
def test_processes_may_change_where_the_product_stays(then, now, done):
    then, now = setup(*then), setup(*now)
    samples = 48
    plan = plan_resume(meta(then, samples // then.batch_samples), now, Path("epoch_1.pth"))
    assert plan.replays_schedules
    assert not plan.keeps_random_states
    assert (plan.batches_done if plan.batches_done is not None else samples // then.batch_samples) == done


@pytest.mark.parametrize(("now", "advice"), [((2, 4), "batch_size=8"), ((2, 4, 4), "accumulative_counts=2")])
def test_another_product_is_refused_with_what_would_keep_it(now, advice):
    with pytest.raises(ConfigError, match=advice):
        plan_resume(meta(setup(4, 4), 0), setup(*now), Path("epoch_1.pth"))
