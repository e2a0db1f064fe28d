"""``train --paired``: the digests of batches in a run's record, and what changes them."""

from __future__ import annotations

import copy
import itertools
import signal
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.structures import BaseDataElement, InstanceData

import sosr_det.register  # noqa: F401
from sosr_det.analysis.run_settings import config_settings
from sosr_det.engine.clean_pass import unaugmented_training_set
from sosr_det.engine.exact_engine import use_exact_engine
from sosr_det.engine.hooks.batch_digest import BatchDigestHook, add_to_digest, weight_digests
from sosr_det.engine.pairing import apply_paired
from sosr_det.engine.run_record import read_run_record, write_run_record
from sosr_det.engine.runner import EngineRunner
from sosr_det.engine.signals import StoppedOnRequest, active_stop_signals, stop_signals
from sosr_det.errors import ConfigError

number = itertools.count()


@DATASETS.register_module()
class JitteredDigits(torch.utils.data.Dataset):
    """Random images, drawn anew each time."""

    metainfo: ClassVar[dict] = {"classes": ("a", "b")}

    def __init__(self, count=8, pipeline=()):
        self.count, self.pipeline = count, pipeline

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"inputs": torch.rand(4) + index, "labels": index % 2}


@MODELS.register_module()
class ModelThatDraws(BaseModel):
    """Draws ``draws`` random numbers in each step, as dropout does."""

    def __init__(self, draws=0, width=3):
        super().__init__()
        self.draws = draws
        self.backbone = torch.nn.Linear(4, width)
        self.head = torch.nn.Linear(width, 2)

    def forward(self, inputs, labels=None, mode="tensor"):
        torch.rand(self.draws)
        return {"loss": self.head(self.backbone(torch.stack(inputs))).square().mean()}


@HOOKS.register_module()
class DigestOfUnseeded(BatchDigestHook):
    """Hashes batches of a data set that knows no epochs."""

    def before_train(self, runner):
        self._goes_on = False
        self._dataset = type("Unseeded", (), {"set_epoch": lambda *_: None})()
        runner.message_hub.update_info("batches", [])

    def before_train_epoch(self, runner):
        state = torch.get_rng_state()
        super().before_train_epoch(runner)
        torch.set_rng_state(state)


def train(
    folder, *, seed=0, workers=0, epochs=2, resume=False, paired=True, draws=0, width=3, hooks=(), exact=True
):
    cfg = Config(
        {
            "work_dir": str(folder),
            "model": {"type": "ModelThatDraws", "draws": draws, "width": width},
            "train_dataloader": {
                "batch_size": 2,
                "num_workers": workers,
                "persistent_workers": workers > 0,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "dataset": {"type": "JitteredDigits"},
            },
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": epochs},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}},
            "randomness": {"seed": seed},
            "default_hooks": {"logger": None, "checkpoint": {"type": "CheckpointHook", "interval": 1}},
            "custom_hooks": [{"type": "PlainCheckpointHook"}, *hooks],
            "log_level": "ERROR",
            "resume": resume,
            "experiment_name": f"paired-{next(number)}",
            "default_scope": "mmengine",
        }
    )
    apply_paired(cfg, paired)
    if exact:
        use_exact_engine(cfg)
    runner = EngineRunner.from_cfg(cfg)
    runner.train()
    return runner.message_hub.runtime_info


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"), epochs=3)


def digests(info):
    return [epoch["digest"] for epoch in info["batches"]]


def test_what_is_recorded(plain):
    assert [(e["epoch"], e["num_batches"]) for e in plain["batches"]] == [(1, 4), (2, 4), (3, 4)]
    assert len(set(digests(plain))) == 3
    assert all(len(digest) == 64 for digest in digests(plain))
    assert set(plain["initial_weights"]) == {
        "backbone", "outside_backbone", "outside_backbone_layout", "num_tensors_outside_backbone"
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"workers": 2}, {"draws": 5}, {"draws": 3, "workers": 2}])
def test_the_same_batches_with_any_workers_and_any_model(changes, plain, tmp_path):
    assert digests(train(tmp_path, epochs=2, **changes)) == digests(plain)[:2]


def test_another_seed_has_other_batches(plain, tmp_path):
    assert not set(digests(train(tmp_path, seed=1))) & set(digests(plain))


def test_without_seeded_samples_a_model_that_draws_changes_the_batches(tmp_path):
    """The control of the test above: the same digests over a data set that is not seeded by sample."""

    def found(draws):
        hooks = [{"type": "DigestOfUnseeded"}]
        info = train(tmp_path / str(draws), paired=False, draws=draws, hooks=hooks, exact=False)
        return digests(info)

    assert found(0)[0] != found(5)[0]


def test_a_resumed_run_has_the_digests_of_a_whole_one(plain, tmp_path):
    train(tmp_path, epochs=1)
    assert digests(train(tmp_path, epochs=3, resume=True)) == digests(plain)


@HOOKS.register_module()
class AskToStop(Hook):
    """As SIGUSR1 does, in the sixth step: the second of epoch 2."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 5:
            active_stop_signals().received = signal.SIGUSR1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_an_epoch_has_the_digests_of_a_whole_one(plain, tmp_path, workers):
    with stop_signals(), pytest.raises(StoppedOnRequest):
        train(tmp_path, epochs=3, draws=5, workers=workers, hooks=[{"type": "AskToStop"}])
    assert (tmp_path / "mid_epoch_2_iter_6.pth").is_file()
    info = train(tmp_path, epochs=3, draws=5, workers=2 - workers, resume=True)
    assert digests(info) == digests(plain)
    assert not list(tmp_path.glob("mid_epoch*"))


def test_weights_outside_of_the_backbone(plain, tmp_path):
    again = train(tmp_path / "a", epochs=1, draws=9)["initial_weights"]
    assert again == plain["initial_weights"]
    other = train(tmp_path / "b", epochs=1, seed=4)["initial_weights"]
    assert other["outside_backbone"] != again["outside_backbone"]
    assert other["outside_backbone_layout"] == again["outside_backbone_layout"]
    wider = train(tmp_path / "c", epochs=1, width=5)["initial_weights"]
    assert wider["outside_backbone_layout"] != again["outside_backbone_layout"]
    model = ModelThatDraws()
    before = weight_digests(model)
    with torch.no_grad():
        model.backbone.weight[0, 0] += 1
    after = weight_digests(model)
    assert after["backbone"] != before["backbone"]
    assert after["outside_backbone"] == before["outside_backbone"]


def test_numbers_that_the_model_draws_show(tmp_path):
    states = [train(tmp_path / str(d), epochs=1, draws=d)["batches"][0]["random_state"] for d in (0, 0, 700)]
    assert states[0] == states[1] != states[2]


# ---- what a digest is of -------------------------------------------------------------------------------------------


def digest(value):
    import hashlib

    found = hashlib.sha256()
    add_to_digest(found, value)
    return found.hexdigest()


def detection_batch():
    sample = BaseDataElement(metainfo={"img_path": "/somewhere/a.jpg", "flip": True, "img_shape": (10, 20)})
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[1.0, 2, 3, 4]]), labels=torch.tensor([1]))
    return {"inputs": [torch.arange(12, dtype=torch.uint8).view(3, 2, 2)], "data_samples": [sample]}


def test_everything_in_a_batch_counts():
    def changed(change):
        batch = copy.deepcopy(detection_batch())
        change(batch, batch["data_samples"][0])
        return digest(batch)

    same = digest(detection_batch())
    assert changed(lambda batch, sample: None) == same
    assert changed(lambda batch, sample: sample.set_metainfo({"img_path": "/elsewhere/a.jpg"})) == same
    changes = [
        lambda batch, sample: batch["inputs"][0].__setitem__((0, 0, 0), 9),
        lambda batch, sample: sample.gt_instances.bboxes.__setitem__((0, 0), 1.5),
        lambda batch, sample: sample.gt_instances.labels.__setitem__(0, 0),
        lambda batch, sample: sample.set_metainfo({"flip": False}),
        lambda batch, sample: batch["inputs"].append(batch["inputs"][0]),
        lambda batch, sample: batch["inputs"].__setitem__(0, batch["inputs"][0].view(2, 3, 2)),
        lambda batch, sample: batch["inputs"].__setitem__(0, batch["inputs"][0].int()),
    ]
    found = [changed(change) for change in changes]
    assert len({same, *found}) == 1 + len(changes)


def test_order_and_nesting_count_and_strides_do_not():
    a, b = torch.arange(3), torch.arange(3, 6)
    different = [
        [a, b],
        [b, a],
        [[a], b],
        torch.stack([a, b]),
        {"x": a},
        {"y": a},
        "1",
        1,
        1.0,
        True,
        None,
        b"1",
    ]
    assert len({digest(value) for value in different}) == len(different)
    assert digest(torch.stack([a, b]).T) == digest(torch.stack([a, b]).T.contiguous())
    assert digest(torch.tensor([7]).expand(1)) == digest(torch.tensor([7]))
    assert digest({"x": a, "y": b}) == digest({"y": b, "x": a})
    assert digest(np.arange(4)[::2]) == digest(np.array([0, 2]))
    digest([torch.zeros(0, 4), torch.ones(2, dtype=torch.bfloat16), np.float32(1), torch.tensor(3)])


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(ConfigError, match="a object, whose content"):
        digest(object())
    with pytest.raises(ConfigError, match="Python objects"):
        digest(np.array([{}], dtype=object))


# ---- the flag ------------------------------------------------------------------------------------------------------


def config(**others):
    return Config(
        {"work_dir": "nowhere", "train_dataloader": {"dataset": {"type": "JitteredDigits"}}, **others}
    )


def test_the_flag_adds_one_hook():
    cfg = config(custom_hooks=[{"type": "DivergenceHook"}])
    for _ in range(2):
        apply_paired(cfg, True)
        assert [hook["type"] for hook in cfg.custom_hooks] == ["DivergenceHook", "BatchDigestHook"]
    untouched = config()
    apply_paired(untouched, False)
    assert "custom_hooks" not in untouched


def test_it_cannot_change_when_a_run_is_resumed(tmp_path):
    for batches, paired, message in (
        ([], False, "begun with --paired; add"),
        (None, True, "begun without .* leave"),
    ):
        write_run_record(tmp_path, {"schema_version": 1, "status": "failed", "batches": batches})
        with pytest.raises(ConfigError, match=message):
            apply_paired(config(work_dir=str(tmp_path), resume=True), paired)
        apply_paired(config(work_dir=str(tmp_path), resume=True), not paired)
    assert read_run_record(tmp_path)["batches"] is None


def test_it_needs_data_and_epochs(tmp_path):
    with pytest.raises(ConfigError, match="train_dataloader"):
        apply_paired(Config({"work_dir": "nowhere"}), True)
    with pytest.raises(ConfigError, match="SampleSeededDataset"):
        train(tmp_path, paired=False, hooks=[{"type": "BatchDigestHook"}], exact=False)


def test_a_paired_run_is_the_same_experiment():
    """Its settings, as the table over seeds compares them, are those of a run without the flag."""
    cfg = config(custom_imports={"imports": ["sosr_det.register"]})
    before = config_settings(cfg.pretty_text)
    apply_paired(cfg, True)
    assert "BatchDigestHook" in cfg.pretty_text
    assert config_settings(cfg.pretty_text) == before
    # Earlier versions recorded the wrapper that the engine now puts around every training set.
    cfg.train_dataloader.dataset = {"type": "SampleSeededDataset", "dataset": cfg.train_dataloader.dataset}
    assert config_settings(cfg.pretty_text) == before


def test_its_training_images_without_augmentation():
    """What --dynamics measures on is not seeded."""
    cfg = config()
    cfg.train_dataloader.dataset.pipeline = ["random"]
    cfg.train_dataloader.dataset = {"type": "SampleSeededDataset", "dataset": cfg.train_dataloader.dataset}
    clean = unaugmented_training_set(
        cfg.train_dataloader.dataset, {"type": "JitteredDigits", "pipeline": ["plain"]}
    )
    assert type(clean) is JitteredDigits
    assert clean.pipeline == ["plain"]
