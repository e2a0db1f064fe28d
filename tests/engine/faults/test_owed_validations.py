"""A run that is killed in a validation, or soon after it, chooses the epoch that it would have chosen."""

from __future__ import annotations

import torch

from sosr_det.analysis.bench_faults.arrange import die, die_at_step  # noqa: F401  called by name
from sosr_det.analysis.bench_faults.drill import STEPS_PER_EPOCH
from sosr_det.engine.loops import ExactEpochLoop, ExactIterLoop
from sosr_det.engine.run_record import kept_checkpoint, read_run_record

BY_STEP = {
    "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 12, "val_interval": 4},
    "param_scheduler": [{"type": "MultiStepLR", "by_epoch": False, "milestones": [9], "gamma": 0.3}],
    "default_hooks": {
        "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 4, "max_keep_ckpts": 2,
                       "save_best": "accuracy/top1", "rule": "greater"},
    },
    "log_processor": {"type": "LogProcessor", "by_epoch": False, "window_size": 10},
}  # fmt: skip
EACH = ["train_cfg.val_interval=1"]


def die_in_validation():
    for loop in (ExactEpochLoop, ExactIterLoop):
        loop.validate = lambda self: die()


def validated(folder):
    return [
        (each["epoch"], each.get("iter"), each["val"]["accuracy/top1"])
        for each in read_run_record(folder)["epochs"]
        if "val" in each
    ]


def test_a_validation_of_a_training_that_counts_steps(drill):
    config = drill.variant("by-step.json", **BY_STEP)
    assert drill.train("by-step", config=config).code == 0
    whole = drill.folder / "by-step"
    assert [each[1] for each in validated(whole)] == [4, 8, 12]
    record = read_run_record(whole)
    assert kept_checkpoint(whole, record).name == f"best_accuracy_top1_iter_{record['best']['iter']}.pth"
    name = drill.new("by-step")
    faults = [["die_in_validation"], ["die_at_step", 6], ["die_in_validation"]]
    outcomes = drill.until_done(name, faults=faults, config=config)
    assert [each.code for each in outcomes] == [-9, -9, -9, 0], outcomes[-1].text
    folder = drill.folder / name
    assert validated(folder) == validated(whole)
    assert read_run_record(folder)["best"] == record["best"]


def test_a_validation_that_is_recorded_is_not_recorded_twice(drill):
    """Checkpoints are rarer than validations: what was validated after the last one is validated again."""
    hooks = {"checkpoint": {**BY_STEP["default_hooks"]["checkpoint"], "interval": 6}}
    config = drill.variant("rare.json", **{**BY_STEP, "default_hooks": hooks})
    name = drill.new("rare")
    outcomes = drill.until_done(name, faults=[["die_at_step", 10]], config=config)
    assert [each.code for each in outcomes] == [-9, 0], outcomes[-1].text
    assert [each[1] for each in validated(drill.folder / name)] == [4, 8, 12]


def test_weights_of_the_next_epoch_are_not_taken_for_the_epochs(drill):
    """The first epochs were not to be validated; in the middle of the second, the first cannot be any more."""
    name = drill.new("middle")
    fault = ["die_at_step", STEPS_PER_EPOCH + 4, "after", 2]
    assert drill.train(name, before=fault, cfg_options=["train_cfg.val_interval=3"]).code == -9
    outcome = drill.train(name, "--resume", cfg_options=EACH)
    assert outcome.code == 0, outcome.text
    assert f"{STEPS_PER_EPOCH + 2} steps" in outcome.text
    assert [each[0] for each in validated(drill.folder / name)] == [2, 3, 4]


def worse_each_epoch(fault=None, *arguments):
    """The first validation has the best result of all; and another fault."""
    _score(-1)
    if fault:
        globals()[fault](*arguments)


def better_each_epoch():
    _score(1)


def _score(per_epoch):
    from sosr_det.engine.checkpoints.hook import AtomicCheckpointHook

    choose = AtomicCheckpointHook._save_best_checkpoint

    def chosen(self, runner, metrics):
        metrics["accuracy/top1"] = 50.0 + per_epoch * runner.epoch
        choose(self, runner, metrics)

    AtomicCheckpointHook._save_best_checkpoint = chosen


def test_the_best_of_a_validation_that_was_made_up_for_stays_the_best(drill):
    name = drill.new("best")
    faults = [
        ["worse_each_epoch", "die_in_validation"],
        ["worse_each_epoch", "die_at_step", STEPS_PER_EPOCH + 1],
    ]
    for fault in faults:
        assert drill.train(name, "--auto-resume", before=fault, cfg_options=EACH).code == -9
    outcome = drill.train(name, "--auto-resume", before=["worse_each_epoch"], cfg_options=EACH)
    assert outcome.code == 0, outcome.text
    record = read_run_record(drill.folder / name)
    assert (record["best"]["epoch"], record["best"]["value"]) == (1, 49.0)
    assert kept_checkpoint(drill.folder / name, record).name == "best_accuracy_top1_epoch_1.pth"


def test_files_hold_the_epoch_of_their_names(drill):
    """Also where not every epoch is saved and a new best one is."""
    name = drill.new("names")
    rare = ["default_hooks.checkpoint.interval=2", "default_hooks.checkpoint.max_keep_ckpts=-1", *EACH]
    outcome = drill.train(name, before=["better_each_epoch"], cfg_options=rare)
    assert outcome.code == 0, outcome.text
    for path in (drill.folder / name).glob("*epoch_*.pth"):
        meta = torch.load(path, weights_only=True)["meta"]
        assert path.stem.endswith(f"epoch_{meta['epoch']}"), path.name


def test_other_images_in_the_same_number_are_another_experiment(drill):
    name = drill.new("data")
    assert drill.train(name, before=["die_at_step", STEPS_PER_EPOCH + 2]).code == -9
    images = next(path for path in sorted((drill.folder / "images").rglob("*")) if path.is_file())
    other = images.with_name("a" + images.name)
    images.rename(other)
    try:
        outcome = drill.train(name, "--resume")
        assert outcome.code == 1
        assert "other images" in outcome.last_line
        assert drill.train(name, "--resume", "--allow-changes").code == 0
    finally:
        other.rename(images)
