"""Runs that are killed and resumed: what an epoch is chosen from must be what an unbroken run chooses from."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import METRICS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import sosr_det.register  # noqa: F401
from sosr_det.engine.run_record import kept_checkpoint, read_run_record
from sosr_det.errors import CheckpointError


class Counted(BaseModel):
    """Its weight is the number of training steps, so a checkpoint says which epoch it is of."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode="loss"):
        return {"loss": -self.weight.sum()} if mode == "loss" else [self.weight.detach().clone()]


SCORES = {1: 0.1, 2: 0.2, 3: 0.9, 4: 0.3, 5: 0.4}
STEPS = 2  # an epoch


@METRICS.register_module()
class ScoreOfEpoch(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(round(float(data_samples[0]) / STEPS))

    def compute_metrics(self, results):
        return {"score": SCORES[results[0]]}


class Killed(BaseException):
    pass


class Kill(Hook):
    priority = "VERY_HIGH"

    def __init__(self, epoch, place):
        self.epoch, self.place = epoch, place

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch, "val") == (self.epoch, self.place):
            raise Killed

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch + 1, "train") == (self.epoch, self.place):
            raise Killed


class KillBeforeTheRecord(Hook):
    """After the checkpoint of an epoch, before its line in run.json."""

    priority = "LOWEST"

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == 3:
            raise Killed


def run(folder, epochs=5, resume=False, hooks=(), due=True, first=(), val_interval=1):
    model, data = Counted(), [{"inputs": torch.zeros(1)}] * STEPS
    extra = [{"type": "DueValidationHook"}] if due else []
    runner = Runner(
        model,
        str(folder),
        train_dataloader=DataLoader(data, sampler=DefaultSampler(data)),
        train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": val_interval},
        val_dataloader=DataLoader(data[:1], sampler=DefaultSampler(data[:1])),
        val_cfg={},
        val_evaluator={"type": "ScoreOfEpoch"},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0)),
        custom_hooks=[*first, {"type": "RunRecordHook", "stage": "detection", "config_name": "toy"}, *extra],
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 1, "save_best": "score", "rule": "greater"
            }
        },
        default_scope="mmengine",
        resume=resume,
        cfg={"model": {}},
        experiment_name=uuid4().hex,  # mmengine shares its message hub between runs of one name
    )  # fmt: skip
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return read_run_record(folder)


def killed(folder, *hooks, **arguments):
    with pytest.raises(Killed):
        run(folder, hooks=hooks, **arguments)


def validated(record):
    return {each["epoch"]: (each.get("val") or {}).get("score") for each in record["epochs"]}


@pytest.mark.parametrize("epochs", [3, 5])  # in the last validation of all there is nothing left to train
def test_killed_in_a_validation(tmp_path, epochs):
    folder = tmp_path / "run"
    killed(folder, Kill(3, "val"), epochs=epochs)
    record = run(folder, epochs, resume=True)
    expected = {epoch: SCORES[epoch] for epoch in range(1, epochs + 1)}
    assert validated(record) == expected == validated(run(tmp_path / "whole", epochs))
    assert record["best"]["epoch"] == 3
    assert record["best"]["checkpoint"] == "best_score_epoch_3.pth"
    saved = torch.load(folder / "best_score_epoch_3.pth", weights_only=False)
    assert float(saved["state_dict"]["weight"]) == 3 * STEPS
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (3, 3 * STEPS)
    assert [path.name for path in folder.glob("best_*")] == ["best_score_epoch_3.pth"]
    assert record["status"] == "completed"


def test_killed_between_the_checkpoint_and_its_line_in_the_record(tmp_path):
    folder = tmp_path / "run"
    killed(folder, due=False, first=[KillBeforeTheRecord()])
    assert list(validated(read_run_record(folder))) == [1, 2]
    record = run(folder, resume=True)
    assert validated(record) == SCORES
    assert record["best"]["epoch"] == 3


def test_no_validation_is_made_twice_or_before_it_is_due(tmp_path):
    folder = tmp_path / "run"
    seen = []

    class Count(Hook):
        def after_val_epoch(self, runner, metrics=None):
            seen.append(runner.epoch)

    killed(folder, Kill(4, "train"), Count())
    record = run(folder, resume=True, hooks=[Count()])
    assert seen == [1, 2, 3, 4, 5]
    assert record["best"]["epoch"] == 3
    seen.clear()
    killed(tmp_path / "every-second", Kill(4, "train"), Count(), val_interval=2)
    record = run(tmp_path / "every-second", resume=True, hooks=[Count()], val_interval=2)
    assert seen == [2, 4, 5]
    assert validated(record) == {1: None, 2: 0.2, 3: None, 4: 0.3, 5: 0.4}


def test_an_epoch_that_was_never_validated_is_said(tmp_path, caplog):
    """Such as of a run that an earlier version resumed."""
    folder = tmp_path / "run"
    killed(folder, Kill(3, "val"))
    caplog.clear()
    record = run(folder, resume=True, due=False)
    assert record["not_validated"] == [3]
    (line,) = [each.message for each in caplog.records if "never validated" in each.message]
    assert line.startswith("epoch 3 was never validated")
    caplog.clear()
    assert "not_validated" not in run(tmp_path / "whole")
    assert not [each for each in caplog.records if "never validated" in each.message]


def test_a_record_is_json(tmp_path):
    run(tmp_path / "run", 1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "completed"


def test_a_chosen_epoch_without_its_checkpoint_is_not_the_last_epoch(tmp_path):
    record = run(tmp_path / "run", 4)
    folder = tmp_path / "run"
    assert kept_checkpoint(folder, record) == folder / "best_score_epoch_3.pth"
    assert kept_checkpoint(folder, {**record, "best": None}) == folder / "epoch_4.pth"
    record["best"]["checkpoint"] = None
    with pytest.raises(CheckpointError, match=r"chose epoch 3 by its score.*epoch_3\.pth"):
        kept_checkpoint(folder, record)
