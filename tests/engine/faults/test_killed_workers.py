"""SIGKILL for worker processes that load images: started again, and not one bit is learned otherwise."""

from __future__ import annotations

import pytest

from sosr_det.analysis.bench_faults.arrange import (
    at_step,
    kill_worker,
    kill_workers_at_steps,  # noqa: F401  called by name
    remember_loaders,
)
from sosr_det.analysis.bench_faults.drill import differences, losses


def require_same(undisturbed, folder):
    assert differences(undisturbed / "epoch_4.pth", folder / "epoch_4.pth") == []
    assert losses(folder) == losses(undisturbed)


def options(persistent):
    return {
        "workers": 2,
        "cfg_options": [
            f"train_dataloader.persistent_workers={persistent}",
            "val_dataloader.num_workers=1",
            f"val_dataloader.persistent_workers={persistent}",
        ],
    }


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_in_a_step_three_times(drill, undisturbed, when, persistent):
    name = drill.new("worker")
    outcome = drill.train(name, before=["kill_workers_at_steps", [3, 4, 9], when], **options(persistent))
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("Starting the training's data loader again") == 3
    require_same(undisturbed, drill.folder / name)


def kill_while_fetching(number):
    """While the main process waits in the loader."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Fetching

    remember_loaders()
    get, count = Fetching._get_data, [0]

    def get_data(self):
        count[0] += 1
        if count[0] == number:
            kill_worker()
        return get(self)

    Fetching._get_data = get_data


@pytest.mark.parametrize("persistent", [True, False])
def test_while_a_batch_is_fetched(drill, undisturbed, persistent):
    name = drill.new("fetching")
    outcome = drill.train(name, before=["kill_while_fetching", 5], **options(persistent))
    assert outcome.code == 0, outcome.text
    require_same(undisturbed, drill.folder / name)


def test_four_times_in_an_epoch_is_an_error_and_nothing_is_lost(drill, undisturbed):
    name = drill.new("often")
    failed, done = drill.until_done(
        name, faults=[["kill_workers_at_steps", [13, 14, 15, 16], "inside"]], **options(False)
    )
    assert failed.code == 1
    assert "died 4 times in one epoch" in failed.last_line
    assert "--resume" in failed.last_line
    assert done.code == 0, done.text
    require_same(undisturbed, drill.folder / name)


def kill_in_validation(where):
    """Of the second epoch: the validation's own worker, or one that waits for the next epoch of training."""
    from mmengine.runner import ValLoop

    remember_loaders()
    run_iter, count = ValLoop.run_iter, [0]

    def watched(self, *arguments):
        count[0] += 1
        if count[0] == 1:
            kill_worker() if where == "validation" else kill_worker(of=self.runner.train_dataloader)
        run_iter(self, *arguments)

    ValLoop.run_iter = watched


@pytest.mark.parametrize(
    ("where", "persistent"), [("validation", True), ("validation", False), ("training", True)]
)
def test_in_a_validation(drill, undisturbed, where, persistent):
    name = drill.new("validation")
    outcome = drill.train(name, before=["kill_in_validation", where], **options(persistent))
    assert outcome.code == 0, outcome.text
    assert "again at batch" in outcome.text
    require_same(undisturbed, drill.folder / name)


def kill_validation_worker_later():
    """A worker that waits for the next validation dies while the training goes on."""
    remember_loaders()
    at_step(14, lambda runner: kill_worker(of=runner.val_loop.dataloader), "inside")


def test_one_that_waits_for_the_next_validation(drill, undisturbed):
    name = drill.new("waiting")
    outcome = drill.train(name, before=["kill_validation_worker_later"], **options(True))
    assert outcome.code == 0, outcome.text
    require_same(undisturbed, drill.folder / name)


def kill_before_save():
    remember_loaders()
    from sosr_det.engine.checkpoints.hook import AtomicCheckpointHook

    save, count = AtomicCheckpointHook._save, [0]

    def watched(self, runner, *arguments):
        count[0] += 1
        if count[0] == 2:
            kill_worker(of=runner.train_dataloader)
        save(self, runner, *arguments)

    AtomicCheckpointHook._save = watched


def test_in_a_save_between_two_epochs(drill, undisturbed):
    name = drill.new("saving")
    outcome = drill.train(name, before=["kill_before_save"], **options(True))
    assert outcome.code == 0, outcome.text
    require_same(undisturbed, drill.folder / name)
