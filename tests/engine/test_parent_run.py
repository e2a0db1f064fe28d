"""A run is compared with the run that it continues, replaces or follows: every setting, by name."""

from __future__ import annotations

import json
import math

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.config_comparison import ABSENT, config_differences, difference_lines
from sosr_det.engine.configs import load_config
from sosr_det.engine.parent_run import describe_parent, parent_record
from sosr_det.engine.recorded_config import recorded_values
from sosr_det.engine.run_record import write_run_record
from sosr_det.engine.training_keys import changes_training
from sosr_det.errors import CheckpointError, ConfigError

CONFIG = "demo/resnet18_sosr_1xb32-6e_demo-imagenet"
DETECTOR = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"


def differences(before, now, config=CONFIG, **options):
    return config_differences(load_config(config, before).pretty_text, load_config(config, now), **options)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DETECTOR,
        "pretrain/resnet110-2d_ce_1xb128-300e_cifar10",
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco",
    ],
)
def test_a_config_does_not_differ_from_its_own_dump(config):
    assert differences([], [], config) == []


@pytest.mark.parametrize(
    ("override", "key", "matters"),
    [
        ("optim_wrapper.optimizer.lr=0.5", "optim_wrapper.optimizer.lr", True),
        ("randomness.seed=3", "randomness.seed", True),
        ("train_dataloader.batch_size=7", "train_dataloader.batch_size", True),
        ("train_cfg.max_epochs=9", "train_cfg.max_epochs", True),
        ("model.data_preprocessor.mean=[1,2,3]", "model.data_preprocessor.mean", True),
        ("default_hooks.logger.interval=3", "default_hooks.logger.interval", False),
        ("default_hooks.checkpoint.max_keep_ckpts=3", "default_hooks.checkpoint.max_keep_ckpts", False),
        ("train_dataloader.num_workers=7", "train_dataloader.num_workers", False),
        ("val_dataloader.batch_size=7", "val_dataloader.batch_size", False),
        ("train_dataloader.dataset.data_root=elsewhere", "train_dataloader.dataset.data_root", False),
        ("env_cfg.cudnn_benchmark=False", "env_cfg.cudnn_benchmark", False),
    ],
)
def test_a_setting_is_named_with_both_values_and_what_it_decides(override, key, matters):
    [found] = differences([], [override])
    assert (found.key, found.changes_training) == (key, matters)
    assert found.new != found.old
    assert differences([override], [override]) == []


def test_where_the_run_lies_and_how_it_was_started_is_no_difference():
    now = ["work_dir=elsewhere", "launcher=slurm", "resume=True"]
    before = load_config(CONFIG).pretty_text
    cfg = load_config(CONFIG)
    cfg.merge_from_dict(dict(each.split("=") for each in now))
    assert config_differences(before, cfg) == []


def test_weights_that_a_run_starts_from_count_only_where_it_starts():
    changed = ["model.backbone.init_cfg.checkpoint=sosr://other"]
    assert differences([], changed, DETECTOR) == []
    [found] = differences([], changed, DETECTOR, resuming=False)
    assert found.key == "model.backbone.init_cfg.checkpoint"
    assert found.changes_training


def test_one_more_transform_is_one_difference():
    cfg = load_config(CONFIG)
    text = cfg.pretty_text
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [pipeline[0], {"type": "Extra", "p": 1}, *pipeline[1:]]
    [found] = config_differences(text, cfg)
    assert found.key == "train_dataloader.dataset.pipeline.1"
    assert found.old is ABSENT
    assert found.new == {"type": "Extra", "p": 1}
    assert found.changes_training


def test_hooks_are_compared_by_type_and_not_by_place():
    one = {
        "custom_hooks": [
            {"type": "EMAHook", "momentum": 0.1},
            {"type": "LoggerHook"},
            {"type": "RunRecordHook"},
        ]
    }
    other = {"custom_hooks": [{"type": "LoggerHook", "interval": 5}, {"type": "EMAHook", "momentum": 0.2}]}
    found = config_differences(f"custom_hooks = {one['custom_hooks']!r}", other)
    assert [(each.key, each.changes_training) for each in found] == [
        ("custom_hooks.EMAHook.momentum", True),
        ("custom_hooks.LoggerHook.interval", False),
    ]


def test_tuples_are_lists_and_scopes_do_not_count_but_values_do():
    text = "model = dict(type='mmdet.RetinaNet', scale=(3, 4))"
    assert config_differences(text, {"model": {"type": "RetinaNet", "scale": [3, 4]}}) == []
    assert len(config_differences(text, {"model": {"type": "FCOS", "scale": [3, 5]}})) == 2
    # A top-level value of another kind altogether.
    assert len(config_differences("model = None", {"model": {"type": "FCOS"}})) == 1


def test_of_the_acceleration_only_what_computes_other_numbers_counts():
    now = {"acceleration": {"precision": "bf16", "channels_last": True, "compile": "default"}}
    found = {each.key: each.changes_training for each in config_differences("load_from = None", now)}
    assert found == {
        "acceleration.precision": True,
        "acceleration.channels_last": False,
        "acceleration.compile": False,
    }


def test_how_often_is_saved_is_no_other_training():
    [found] = config_differences("save_every_minutes = 5.0", {})
    assert not found.changes_training


def test_names_that_nobody_knows_count_as_a_change_of_the_training():
    assert changes_training(("some_new_section", "x"))
    assert changes_training(("custom_hooks", "SomebodysHook", "x"))
    assert changes_training(("train_dataloader", "some_new_option"))


def test_lines_are_aligned_and_long_values_cut():
    found = differences([], ["optim_wrapper.optimizer.lr=0.5", "default_hooks.logger.interval=3"])
    lines = difference_lines(found)
    assert lines == [
        "optim_wrapper.optimizer.lr:    0.02 -> 0.5",
        "default_hooks.logger.interval: 50 -> 3  (same training)",
    ]
    long = difference_lines(config_differences("model = 1", {"model": "x" * 500}))[0]
    assert len(long) < 90
    assert long.startswith("model: 1 -> 'xxx")
    assert long.endswith("…")


def test_a_recorded_config_that_runs_code_is_refused():
    with pytest.raises(ConfigError, match=r"run\.json"):
        config_differences("import os", load_config(CONFIG))


def run(folder, text):
    folder.mkdir()
    write_run_record(
        folder,
        {
            "schema_version": 1,
            "config_text": text,
            "config_name": "a",
            "config_digest": "0" * 64,
            "epochs": [],
        },
    )
    return folder


def test_a_parent_is_recorded_with_its_digest_and_differences(tmp_path):
    parent = run(tmp_path / "parent", load_config(CONFIG).pretty_text)
    found = parent_record(parent, load_config(CONFIG, ["randomness.seed=3"]), resuming=False)
    assert describe_parent(found, "follows") == [
        f"this run follows {parent} with 1 other setting:",
        "  randomness.seed: 0 -> 3",
    ]
    assert json.loads(json.dumps(found)) == {
        "path": str(parent),
        "config_name": "a",
        "config_digest": "0" * 64,
        "differences": [{"key": "randomness.seed", "old": "0", "new": "3", "changes_training": True}],
    }
    same = parent_record(parent / "run.json", load_config(CONFIG), resuming=False)
    assert describe_parent(same, "follows") == [f"this run follows {parent} with the same config"]


def test_a_parent_whose_config_is_no_data_is_said_and_one_that_is_none_is_refused(tmp_path):
    found = parent_record(run(tmp_path / "a", "import os"), load_config(CONFIG), resuming=False)
    assert found["differences"] is None
    assert "cannot be compared" in describe_parent(found, "replaces")[0]
    with pytest.raises(CheckpointError, match="no run record"):
        parent_record(tmp_path, load_config(CONFIG), resuming=False)
    with pytest.raises(CheckpointError, match="nothing to compare"):
        parent_record(run(tmp_path / "b", None), load_config(CONFIG), resuming=False)


def test_settings_without_bound_are_read_from_a_record():
    """Python writes them as names: ``inf``, ``-inf``, ``nan``."""
    cfg = load_config(CONFIG)
    cfg.save_every_minutes, cfg.lowest = float("inf"), float("-inf")
    found = recorded_values(cfg.pretty_text, "run.json")
    assert (found["save_every_minutes"], found["lowest"]) == (float("inf"), float("-inf"))
    assert math.isnan(recorded_values("a = dict(b=nan)", "run.json")["a"]["b"])
    with pytest.raises(ConfigError, match="no literal"):
        recorded_values("a = info", "run.json")


def test_a_parent_may_be_named_by_one_of_its_checkpoints(tmp_path):
    parent = run(tmp_path / "parent", load_config(CONFIG).pretty_text)
    (parent / "epoch_1.pth").write_bytes(b"\x80")
    found = parent_record(parent / "epoch_1.pth", load_config(CONFIG), resuming=False)
    assert describe_parent(found, "follows") == [f"this run follows {parent} with the same config"]
