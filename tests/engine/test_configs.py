"""Shipped configs: each loads, says what it is, and mistakes are refused by name."""

from __future__ import annotations

import difflib

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import config_names, config_roots, find_config, load_config, parse_override
from sosr_det.engine.setup import apply_classes, apply_data_root, apply_total_epochs
from sosr_det.errors import ConfigError, DataError

PRETRAIN = "pretrain/resnet50_sosr_8xb32-90e_in1k"
DETECTION = "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712"


@pytest.mark.parametrize("name", config_names())
def test_every_config_loads_and_has_a_header(name):
    cfg = load_config(name)
    assert cfg.stage in ("pretrain", "finetune", "detection")
    header = find_config(name).read_text().split("_base_")[0]
    assert header.startswith("#")
    assert "Command: tools/" in header
    assert name in header


def test_the_two_commands_chain():
    assert load_config(PRETRAIN).publish.name == "resnet50-in1k-sosr"
    backbone = load_config(DETECTION).model.backbone
    assert backbone.init_cfg.checkpoint == "sosr://resnet50-in1k-sosr"
    for script, default in (("pretrain", PRETRAIN), ("train_det", DETECTION)):
        text = (config_roots()[0].parent / "tools" / f"{script}.sh").read_text()
        assert f"read_config_and_gpus {default} " in text


@pytest.mark.parametrize("other", ["tv", "ce"])
def test_detection_twins_differ_in_one_line(other):
    ours = find_config(DETECTION).read_text().splitlines()
    theirs = find_config(DETECTION.replace("sosr-pre", f"{other}-pre")).read_text().splitlines()
    differing = [
        line for line in difflib.ndiff(ours, theirs) if line[0] in "+-" and not line[2:].startswith("#")
    ]
    assert len(differing) == 2  # one line out, one in
    assert all("checkpoint=" in line for line in differing)


def test_detection_keeps_mmdetections_recipe():
    ours, theirs = load_config(DETECTION), load_config("mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py")
    ours, theirs = without_scope(ours.to_dict()), without_scope(theirs.to_dict())
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "train_pipeline", "test_pipeline"):
        assert ours[key] == theirs[key], key
    for cfg in (ours, theirs):
        cfg["model"]["backbone"].pop("init_cfg")
    assert ours["model"] == theirs["model"]
    parts = ours["train_dataloader"]["dataset"]["dataset"]["datasets"]
    originals = theirs["train_dataloader"]["dataset"]["dataset"]["datasets"]
    for mine, original in zip(parts, originals, strict=True):
        for key in ("ann_file", "data_prefix", "filter_cfg", "pipeline"):
            assert mine[key] == original[key], key


def without_scope(node):
    """mmengine marks what a config of another package brought; the marks are no difference."""
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != "_scope_"}
    return [without_scope(value) for value in node] if isinstance(node, (list, tuple)) else node


def test_finetuning_is_the_papers():
    cfg = load_config("finetune/resnet50-sosr-pre_sosr_1xb32-95e_cub200")
    assert cfg.train_cfg.max_epochs == 95
    assert cfg.optim_wrapper.optimizer.lr == 0.001
    assert cfg.param_scheduler[0].step_size == 30
    assert cfg.param_scheduler[0].gamma == 0.1
    assert (cfg.model.loss.threshold, cfg.model.loss.weight) == (0.99, 1.0)


def test_unknown_config_lists_near_names():
    with pytest.raises(ConfigError, match="resnet50_sosr_8xb32-90e_in1k"):
        find_config("pretrain/resnet50_sosr_8xb32_90e")
    with pytest.raises(ConfigError, match="mmdet::nothing/here"):
        find_config("mmdet::nothing/here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=[1,2]", [1, 2]),
        ("a.b=True", True),
        ("a.b=false", False),
        ("a.b=none", None),
        ("a.b=x/y", "x/y"),
        ("a.b=p,q", ["p", "q"]),
        ("a.b=[p,q]", ["p", "q"]),
        ("a.b=[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("a.b=[(p,q),(r,s)]", [("p", "q"), ("r", "s")]),
        ("a.b=c=d", "c=d"),
    ],
)
def test_override_values(text, value):
    assert parse_override(text) == ("a.b", value)


def test_overrides_apply():
    cfg = load_config(
        PRETRAIN, ["model.num_classes=20", "optim_wrapper.clip_grad.max_norm=5", "randomness.seed=3"]
    )
    assert cfg.model.num_classes == 20
    assert cfg.randomness.seed == 3


@pytest.mark.parametrize(
    "override",
    [
        "randomness.deterministic=True",
        "train_dataloader.prefetch_factor=4",
        "optim_wrapper.paramwise_cfg.bias_decay_mult=0",
        "optim_wrapper.type=AmpOptimWrapper",
        "val_dataloader.dataset.indices=50",
        "val_dataloader.dataset.metainfo.classes=[a,b]",
        "train_dataloader.dataset.dataset.datasets.0.ann_file=x.txt",
        "default_hooks.early_stopping.type=EarlyStoppingHook",
        "sync_bn=torch",
        "load_from=model.pth",
        "model.backbone.frozen_stages=2",
    ],
)
def test_usual_openmmlab_overrides_are_accepted(override):
    load_config(DETECTION, [override])


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("model.num_clases=20", "num_classes"),
        ("train_dataloder.batch_size=1", "train_dataloader"),
        ("train_dataloader.dataset.pipeline.7.size=32", "list of 2"),
        ("nonsense", "KEY=VALUE"),
        ("total_epochs=3", "would do nothing"),
        ("train_pipeline=[]", "would do nothing"),
        ("resume=True", "--resume"),
    ],
)
def test_bad_overrides_are_named(override, near):
    with pytest.raises(ConfigError, match=near):
        load_config(PRETRAIN, [override])


def test_misspelt_key_in_a_file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("model = dict(type='X')\ntrain_dataloder = dict(batch_size=1)\n")
    with pytest.raises(ConfigError, match=r"'train_dataloder'.*'train_dataloader'"):
        load_config(str(path))


def test_broken_config_file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("model = dict(\n")
    with pytest.raises(ConfigError, match="does not load"):
        load_config(str(path))


def test_total_epochs_scales_the_schedule():
    cfg = load_config(PRETRAIN)
    apply_total_epochs(cfg, 9)
    assert cfg.train_cfg.max_epochs == 9
    assert cfg.param_scheduler[0].milestones == [3, 6]
    assert cfg.param_scheduler[0].end == 9
    with pytest.raises(ConfigError, match="at least 1"):
        apply_total_epochs(cfg, 0)


def test_data_root_reaches_every_data_set(tmp_path, monkeypatch):
    (tmp_path / "VOCdevkit").mkdir()
    cfg = load_config(DETECTION)
    apply_data_root(cfg, tmp_path)  # the parent works as well as the devkit itself
    roots = {d.data_root for d in cfg.train_dataloader.dataset.dataset.datasets} | {
        cfg.val_dataloader.dataset.data_root
    }
    assert roots == {f"{tmp_path}/VOCdevkit/"}
    monkeypatch.setenv("SOSR_DATA", str(tmp_path / "VOCdevkit"))
    cfg = load_config(DETECTION)
    apply_data_root(cfg, None)
    assert cfg.test_dataloader.dataset.data_root == f"{tmp_path}/VOCdevkit/"
    with pytest.raises(DataError, match=r"--data-root is .*nowhere"):
        apply_data_root(cfg, tmp_path / "nowhere")


def test_classes_reach_data_and_heads():
    cfg = load_config(DETECTION)
    apply_classes(cfg, ["RBC", "WBC", "Platelets"])
    assert cfg.model.bbox_head.num_classes == 3
    assert cfg.val_dataloader.dataset.metainfo.classes == ("RBC", "WBC", "Platelets")
    for bad in (["a", "a"], ["a", ""], []):
        with pytest.raises(ConfigError, match="distinct"):
            apply_classes(cfg, bad)
    with pytest.raises(ConfigError, match="VOC-format"):
        apply_classes(load_config(PRETRAIN), ["a", "b"])
