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
DETECTION_RECIPES = (
    "detection/retinanet_r50-{}-pre_fpn_1x_voc0712",
    "detection/retinanet_r50-{}-pre_fpn_paper30e_voc0712",
    "detection/faster-rcnn_r50-{}-pre_fpn_1x_voc0712",
)


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
@pytest.mark.parametrize("recipe", DETECTION_RECIPES)
def test_detection_twins_differ_in_one_line(recipe, other):
    ours, theirs = (
        find_config(recipe.format(start))
        .read_text()
        .replace(f"_r50-{start}-pre_", "_r50-*-pre_")
        .splitlines()
        for start in ("sosr", other)
    )
    differing = [line for line in difflib.ndiff(ours, theirs) if line[0] in "+-"]
    # Comments count too, but for the config's own name: one line out, one in, apart from where that name wraps them.
    code = [line for line in differing if not line[2:].startswith("#")]
    assert len(code) == 2
    assert all("checkpoint=" in line for line in code)
    words = [" ".join(line.lstrip("# ") for line in text if line.startswith("#")) for text in (ours, theirs)]
    assert words[0] == words[1]


@pytest.mark.parametrize("recipe", DETECTION_RECIPES)
def test_detection_recipes_are_one_apart_from_the_weights(recipe):
    first, *others = (load_config(recipe.format(start)).to_dict() for start in ("tv", "ce", "sosr"))
    for cfg in (first, *others):
        init_cfg = cfg["model"]["backbone"].pop("init_cfg")
        assert init_cfg["type"] == "Pretrained"
    assert all(other == first for other in others)


@pytest.mark.parametrize("detector", ["retinanet", "faster-rcnn"])
def test_detection_keeps_mmdetections_recipe(detector):
    """But for the held-out part of trainval, and the test set being the only thing that is tested on."""
    ours = load_config(f"detection/{detector}_r50-sosr-pre_fpn_1x_voc0712")
    theirs = load_config(f"mmdet::pascal_voc/{detector}_r50_fpn_1x_voc0712.py")
    ours, theirs = without_scope(ours.to_dict()), without_scope(theirs.to_dict())
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "train_pipeline", "test_pipeline"):
        assert ours[key] == theirs[key], key
    for cfg in (ours, theirs):
        cfg["model"]["backbone"].pop("init_cfg")
    assert ours["model"] == theirs["model"]
    assert ours["train_dataloader"]["dataset"]["times"] == theirs["train_dataloader"]["dataset"]["times"] == 3
    parts = ours["train_dataloader"]["dataset"]["dataset"]["datasets"]
    originals = theirs["train_dataloader"]["dataset"]["dataset"]["datasets"]
    for mine, original in zip(parts, originals, strict=True):
        for key in ("ann_file", "data_prefix", "filter_cfg", "pipeline"):
            assert mine[key] == original[key], key
        assert mine["holdout"] == {"fraction": 0.05, "part": "train"}
    for key in ("ann_file", "data_prefix", "pipeline", "test_mode"):
        assert ours["test_dataloader"]["dataset"][key] == theirs["test_dataloader"]["dataset"][key], key
    for mine, original in zip(ours["val_dataloader"]["dataset"]["datasets"], originals, strict=True):
        assert mine["ann_file"] == original["ann_file"]
        assert mine["pipeline"] == theirs["test_dataloader"]["dataset"]["pipeline"]
        assert mine["holdout"] == {"fraction": 0.05, "part": "val"}
        assert "filter_cfg" not in mine


def test_the_papers_detection_recipe():
    cfg = load_config("detection/retinanet_r50-sosr-pre_fpn_paper30e_voc0712")
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.optim_wrapper.optimizer.to_dict() == {"type": "Adam", "lr": 1e-5}
    (scheduler,) = cfg.param_scheduler
    assert (scheduler.type, scheduler.factor, scheduler.patience) == ("TrainLossPlateauLR", 0.1, 2)
    data = cfg.train_dataloader.dataset
    assert (cfg.train_dataloader.batch_size, data.times) == (2, 1)
    for part in data.dataset.datasets:
        assert "bbox_min_size" not in part.filter_cfg
        assert [step.scale for step in part.pipeline if step.type == "Resize"] == [(1024, 608)]
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (-1, True)
    anchors = load_config(DETECTION).model.bbox_head.anchor_generator
    assert cfg.model.bbox_head.anchor_generator == anchors


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
        "test_dataloader.dataset.indices=50",
        "test_dataloader.dataset.metainfo.classes=[a,b]",
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
        ("train_dataloader.dataset.pipeline.7.size=32", "list of 1"),
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
    parts = [*cfg.train_dataloader.dataset.dataset.datasets, *cfg.val_dataloader.dataset.datasets]
    roots = {part.data_root for part in (*parts, cfg.test_dataloader.dataset)}
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
    for part in (*cfg.val_dataloader.dataset.datasets, cfg.test_dataloader.dataset):
        assert part.metainfo["classes"] == ("RBC", "WBC", "Platelets")
    for bad in (["a", "a"], ["a", ""], []):
        with pytest.raises(ConfigError, match="distinct"):
            apply_classes(cfg, bad)
    with pytest.raises(ConfigError, match="VOC-format"):
        apply_classes(load_config(PRETRAIN), ["a", "b"])
