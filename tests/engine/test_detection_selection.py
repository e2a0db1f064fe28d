"""`train --select-on`: which images are trained on, and which an epoch is chosen by."""

from __future__ import annotations

import json

import pytest
import torch

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import load_config
from sosr_det.engine.hooks.data_contract import DataContractHook, refuse_shared_images
from sosr_det.engine.selection import apply_selection, dataset_leaves
from sosr_det.engine.training_data import choose_data
from sosr_det.errors import ConfigError, DataError

VOC = "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712"
PAPER = "detection/faster-rcnn_r50-ce-pre_fpn_1x_voc0712"
BCCD = "detection/retinanet_r18-sosr-pre_fpn_4e_bccd"
DEMO = "demo/retinanet_r18-ce-pre_fpn_3e_demo-voc"
CUB = "finetune/resnet50-ce-pre_ce_1xb32-95e_cub200"
COCO = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
MMDET_VOC = "mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py"


def images(cfg, section):
    """(list, part) of each data set in a section."""
    return [
        (leaf["ann_file"], (leaf.get("holdout") or {}).get("part"))
        for leaf in dataset_leaves((cfg.get(section) or {}).get("dataset"))
    ]


def selected(config, choice, *changes):
    cfg = load_config(config)
    for change in changes:
        change(cfg)
    record, lines = apply_selection(cfg, choice)
    return cfg, record, lines


TRAINVAL = ("VOC2007/ImageSets/Main/trainval.txt", "VOC2012/ImageSets/Main/trainval.txt")
TEST = "VOC2007/ImageSets/Main/test.txt"


@pytest.mark.parametrize(("config", "fraction"), [(VOC, 0.05), (PAPER, 0.05), (DEMO, 0.2)])
@pytest.mark.parametrize("choice", [None, "val"])
def test_val_holds_out_a_part_of_trainval(config, fraction, choice):
    cfg, record, lines = selected(config, choice)
    assert images(cfg, "train_dataloader") == [(name, "train") for name in TRAINVAL]
    assert images(cfg, "val_dataloader") == [(name, "val") for name in TRAINVAL]
    assert images(cfg, "test_dataloader") == [(TEST, None)]
    fractions = {
        leaf["holdout"]["fraction"]
        for section in ("train_dataloader", "val_dataloader")
        for leaf in dataset_leaves(cfg[section].dataset)
    }
    assert fractions == {fraction}  # one for all, or the parts would overlap
    assert (record["on"], record["asked"], record["holdout_fraction"]) == ("val", choice, fraction)
    (line,) = lines
    assert line.startswith(f"{fraction:.0%} of the training images are held out")
    for leaf in dataset_leaves(cfg.val_dataloader.dataset):
        assert leaf["test_mode"]
        assert "filter_cfg" not in leaf
        assert not any(step["type"] == "RandomFlip" for step in leaf["pipeline"])
    # ConcatDataset refuses VOC2007 beside VOC2012, whose metainfo names another year.
    assert cfg.val_dataloader.dataset.ignore_keys == ["dataset_type"]


def test_val_of_the_config_is_what_the_flag_makes_of_it():
    plain = load_config(VOC)
    cfg, *_ = selected(VOC, "val")
    for section in ("train_dataloader", "test_dataloader", "val_evaluator"):
        assert cfg[section] == plain[section]
    for mine, written in zip(
        cfg.val_dataloader.dataset.datasets, plain.val_dataloader.dataset.datasets, strict=True
    ):
        assert without_marks(mine) == without_marks(written)


def without_marks(node):
    """Without mmengine's mark of another package, and without what is None by default."""
    if isinstance(node, dict):
        return {k: without_marks(v) for k, v in node.items() if k != "_scope_" and v is not None}
    return [without_marks(v) for v in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize("config", [VOC, DEMO])
def test_test_trains_on_all_and_says_what_that_costs(config):
    cfg, record, lines = selected(config, "test")
    assert images(cfg, "train_dataloader") == [(name, None) for name in TRAINVAL]
    assert images(cfg, "val_dataloader") == images(cfg, "test_dataloader") == [(TEST, None)]
    assert cfg.val_dataloader.dataset == cfg.test_dataloader.dataset
    assert cfg.default_hooks.checkpoint.save_best == "voc/map_11point"
    assert record == {"on": "test", "evaluated_on": [TEST], "holdout_fraction": None, "asked": "test"}
    assert "no unbiased estimate" in lines[0]


@pytest.mark.parametrize("config", [VOC, DEMO])
def test_last_trains_on_all_and_looks_at_nothing(config):
    cfg, record, lines = selected(config, "last")
    assert images(cfg, "train_dataloader") == [(name, None) for name in TRAINVAL]
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is None
    assert "save_best" not in cfg.default_hooks.checkpoint
    assert (record["on"], record["evaluated_on"]) == ("last", [])
    assert "no epoch is chosen" in lines[0]


def test_a_val_list_of_its_own_is_val():
    lists = [(f"VOC2007/ImageSets/Main/{name}.txt", None) for name in ("train", "val", "test")]
    sections = ("train_dataloader", "val_dataloader", "test_dataloader")
    for choice in (None, "val"):
        cfg, record, lines = selected(BCCD, choice)
        assert [images(cfg, section)[0] for section in sections] == lists
        assert (record["on"], record["holdout_fraction"], lines) == ("val", None, [])
    cfg, record, _ = selected(BCCD, "test")
    assert [images(cfg, section)[0] for section in sections] == [lists[0], lists[2], lists[2]]
    # Not trained on, so it may be looked at; nothing is chosen by it.
    cfg, record, _ = selected(BCCD, "last")
    assert images(cfg, "val_dataloader") == [lists[1]]
    assert "save_best" not in cfg.default_hooks.checkpoint
    assert record["on"] == "last"


def test_val_is_carved_out_where_a_config_validates_on_its_test_list():
    def validate_on_test(cfg):
        cfg.val_dataloader = cfg.test_dataloader
        for leaf in dataset_leaves(cfg.train_dataloader.dataset):
            leaf.pop("holdout", None)

    cfg, record, _ = selected(BCCD, None, validate_on_test)
    train = "VOC2007/ImageSets/Main/train.txt"
    assert images(cfg, "train_dataloader") == [(train, "train")]
    assert images(cfg, "val_dataloader") == [(train, "val")]
    assert cfg.val_dataloader.dataset.type == "CheckedVOCDataset"
    assert record["holdout_fraction"] == 0.05


def test_val_is_carved_out_where_a_config_validates_on_what_it_trains_on():
    def validate_on_train(cfg):
        cfg.val_dataloader.dataset.ann_file = cfg.train_dataloader.dataset.ann_file

    _, record, _ = selected(BCCD, None, validate_on_train)
    assert record["holdout_fraction"] == 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"check_images": False},
        {"on_problem": "skip", "max_skipped_fraction": 0.5},
        {"data_root": "data/BCCD/./"},
        {"data_root": "data/BCCD"},
        {"data_prefix": {"sub_data_root": "./VOC2007"}},
        {
            "data_root": "data/",
            "ann_file": "BCCD/VOC2007/ImageSets/Main/{}.txt",
            "data_prefix": {"sub_data_root": "BCCD/VOC2007/"},
        },
    ],
)  # fmt: skip
@pytest.mark.parametrize("section", ["train", "test"])
def test_a_list_is_the_same_however_it_is_written(section, change):
    def validate_on_it(cfg):
        for name in ("train", "val", "test"):
            cfg[f"{name}_dataloader"].dataset.data_root = "data/BCCD/"
        leaf = cfg.val_dataloader.dataset
        leaf.ann_file = f"VOC2007/ImageSets/Main/{section}.txt"
        leaf.update({k: v.format(section) if k == "ann_file" else v for k, v in change.items()})

    _, record, _ = selected(BCCD, None, validate_on_it)
    assert record["holdout_fraction"] == 0.05  # of the training list: that was no list of its own
    _, record, _ = selected(BCCD, "last", validate_on_it)
    assert bool(record["evaluated_on"]) == (section == "test")


def own_val(cfg):
    """A config that inherits the held-out part and names a validation list."""
    cfg.val_dataloader.dataset = {
        **cfg.test_dataloader.dataset,
        "ann_file": "VOC2007/ImageSets/Main/mine.txt",
        "holdout": {"fraction": 0.05, "part": "val"},
    }


@pytest.mark.parametrize("choice", [None, "val"])
def test_nothing_is_held_out_beside_a_val_list_of_its_own(choice):
    cfg, record, lines = selected(VOC, choice, own_val)
    assert images(cfg, "train_dataloader") == [(name, None) for name in TRAINVAL]
    assert images(cfg, "val_dataloader") == [("VOC2007/ImageSets/Main/mine.txt", None)]
    assert (record["on"], record["holdout_fraction"], lines) == ("val", None, [])


# ---- by which score ------------------------------------------------------------------------------------------------


def no_save_best(cfg):
    cfg.default_hooks.checkpoint.pop("save_best")
    cfg.default_hooks.checkpoint.pop("rule", None)


@pytest.mark.parametrize("change", [no_save_best, lambda cfg: cfg.pop("default_hooks")])
@pytest.mark.parametrize("choice", ["val", "test"])
def test_an_epoch_that_is_to_be_chosen_is_chosen(choice, change):
    cfg, record, _ = selected(VOC, choice, change)
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.type, checkpoint.save_best, checkpoint.rule) == (
        "CheckpointHook", "voc/map_11point", "greater"
    )  # fmt: skip
    assert record["on"] == choice


def test_a_config_that_chooses_by_something_is_left_to_it():
    cfg, *_ = selected(VOC, "val", lambda cfg: cfg.default_hooks.checkpoint.update(save_best="voc/map_area"))
    assert cfg.default_hooks.checkpoint.save_best == "voc/map_area"


def test_a_config_that_chooses_nothing_says_so():
    cfg, record, lines = selected(VOC, None, no_save_best)
    assert images(cfg, "train_dataloader") == [(name, "train") for name in TRAINVAL]  # as the config says
    assert record["on"] == "last"
    assert record["holdout_fraction"] == 0.05
    assert "save_best" not in cfg.default_hooks.checkpoint
    assert lines[0].startswith("5% of the training images are held out, as the config says, and no epoch is")


def test_what_cannot_be_chosen_by_is_refused():
    with pytest.raises(ConfigError, match=r"--select-on test: .*CocoMetric.*checkpoint\.save_best="):
        selected(COCO, "test")


def test_what_else_there_is_is_recorded_as_it_is():
    cfg, record, lines = selected(CUB, None)
    assert record == {"on": "test", "evaluated_on": ["CUB200 test"], "holdout_fraction": None, "asked": None}
    assert lines == []
    assert cfg.to_dict() == load_config(CUB).to_dict()
    _, record, _ = selected(MMDET_VOC, None)
    assert record["on"] == "last"  # MMDetection's configs keep the last epoch
    _, record, _ = selected(COCO, None, lambda cfg: cfg.default_hooks.checkpoint.update(save_best="auto"))
    assert record["on"] == "test"
    _, record, _ = selected(COCO, None, lambda cfg: cfg.update(val_dataloader=None))
    assert record["on"] == "none"


def test_last_of_a_classifier_keeps_its_validation():
    cfg, record, _ = selected(CUB, "last")
    assert cfg.val_dataloader == load_config(CUB).val_dataloader
    assert "save_best" not in cfg.default_hooks.checkpoint
    assert record == {
        "on": "last",
        "evaluated_on": ["CUB200 test"],
        "holdout_fraction": None,
        "asked": "last",
    }


@pytest.mark.parametrize(
    ("config", "choice", "said"),
    [
        (CUB, "val", r"CUB200.*--select-on test"),
        (COCO, "val", r"CocoDataset.*--select-on test"),
        (MMDET_VOC, "val", "VOCDataset"),
        (VOC, "best", "val, test, last, got 'best'"),
    ],
)
def test_what_means_nothing_is_refused(config, choice, said):
    with pytest.raises(ConfigError, match=said):
        selected(config, choice)


def test_a_test_set_is_needed_to_select_on_it():
    with pytest.raises(ConfigError, match="no test_dataloader"):
        selected(VOC, "test", lambda cfg: cfg.update(test_dataloader=None))


# ---- classes by scan -----------------------------------------------------------------------------------------------


def scanned(demo, **changes):
    cfg = load_config(DEMO)
    for leaf in (*dataset_leaves(cfg.train_dataloader.dataset), *dataset_leaves(cfg.val_dataloader.dataset)):
        leaf["data_root"] = f"{demo.voc_devkit}/"
    cfg.update({"work_dir": "nowhere", "resume": False, **changes})
    return cfg, *choose_data(cfg, "scan", None)


def test_scan_finds_the_classes_and_sizes_everything(demo):
    cfg, settings, lines = scanned(demo)
    names = tuple(settings["classes_found"])
    assert names == tuple(sorted(names))
    assert len(names) == 20
    counted = {}
    for folder in ("VOC2007", "VOC2012"):  # slowly, by text
        main = demo.voc_devkit / folder / "ImageSets" / "Main" / "trainval.txt"
        for image in main.read_text().split():
            text = (demo.voc_devkit / folder / "Annotations" / f"{image}.xml").read_text()
            for part in text.split("<object>")[1:]:
                name = part.split("<name>")[1].split("<")[0]
                counted[name] = counted.get(name, 0) + 1
    assert settings["classes_found"] == counted
    assert lines[0] == "classes found: " + ", ".join(f"{name} ({counted[name]})" for name in names)
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for leaf in dataset_leaves(cfg[section].dataset):
            assert leaf["metainfo"]["classes"] == names
    assert cfg.model.bbox_head.num_classes == 20


def test_scan_refuses_what_it_cannot_read(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # in the checkout the demo may have left the config's own data
    cfg = load_config(DEMO)
    cfg.update({"work_dir": "nowhere", "resume": False})
    with pytest.raises(DataError, match=r"trainval\.txt: this list.*--data-root"):
        choose_data(cfg, "scan", None)
    cfg = load_config(CUB)
    cfg.update({"work_dir": "nowhere", "resume": False})
    with pytest.raises(ConfigError, match="VOC-format"):
        choose_data(cfg, "scan", None)


def test_a_resumed_run_keeps_its_choice_and_its_classes(tmp_path):
    (tmp_path / "run.json").write_text(
        '{"schema_version": 1, "selection": {"on": "last", "asked": "last"}, "classes_found": {"a": 3, "b": 1}}'
    )
    cfg = load_config(VOC)
    cfg.update({"work_dir": str(tmp_path), "resume": True})
    settings, _ = choose_data(cfg, None, None)
    assert settings["selection"]["on"] == "last"
    assert settings["classes_found"] == {"a": 3, "b": 1}
    assert cfg.model.bbox_head.num_classes == 2
    with pytest.raises(ConfigError, match="chooses its epoch on last; --select-on val"):
        choose_data(cfg, None, "val")


def test_a_run_begun_before_selections_goes_on_as_it_was(tmp_path):
    began = load_config(VOC)
    for leaf in dataset_leaves(began.train_dataloader.dataset):
        leaf.pop("holdout")
    began.val_dataloader = began.test_dataloader
    began.default_hooks.checkpoint.save_best = "voc/map_area"
    record = {"schema_version": 1, "config_text": began.pretty_text}
    (tmp_path / "run.json").write_text(json.dumps(record))
    cfg = load_config(VOC)
    cfg.update({"work_dir": str(tmp_path), "resume": True})
    settings, lines = choose_data(cfg, None, None)
    assert images(cfg, "train_dataloader") == [(name, None) for name in TRAINVAL]
    assert images(cfg, "val_dataloader") == [(TEST, None)]
    assert cfg.default_hooks.checkpoint.save_best == "voc/map_area"
    assert settings["selection"]["on"] == "test"
    assert settings["selection"]["holdout_fraction"] is None
    (line,) = lines
    assert "began before a part was held out" in line
    with pytest.raises(ConfigError, match="begun before"):
        choose_data(cfg, None, "val")


# ---- the images themselves -----------------------------------------------------------------------------------------


def voc_data(root, name, **holdout):
    from sosr_det.data.voc import CheckedVOCDataset

    return CheckedVOCDataset(
        data_root=str(root),
        ann_file=f"VOC2007/ImageSets/Main/{name}.txt",
        data_prefix={"sub_data_root": "VOC2007/"},
        holdout=holdout or None,
        test_mode=True,
        pipeline=[],
    )


def test_images_that_are_trained_on_are_no_validation_set(demo, tmp_path):
    lists = demo.voc_devkit / "VOC2007" / "ImageSets" / "Main"
    trainval = (lists / "trainval.txt").read_text().split()
    root = tmp_path / "devkit"
    (root / "VOC2007" / "ImageSets" / "Main").mkdir(parents=True)
    for folder in ("Annotations", "JPEGImages"):
        (root / "VOC2007" / folder).symlink_to(demo.voc_devkit / "VOC2007" / folder)
    (root / "VOC2007" / "ImageSets" / "Main" / "val.txt").write_text("\n".join(trainval[3:7]))
    train, val = voc_data(demo.voc_devkit, "trainval"), voc_data(root, "val")
    wrapped = type("Wrapper", (), {"dataset": type("Joined", (), {"datasets": [train]})()})()
    with pytest.raises(
        DataError, match=rf"4 of the validation images are trained on .*{trainval[3]}.*--select-on"
    ):
        refuse_shared_images(wrapped, val)
    refuse_shared_images(train, voc_data(demo.voc_devkit, "test"))
    parts = [voc_data(demo.voc_devkit, "trainval", fraction=0.3, part=part) for part in ("train", "val")]
    refuse_shared_images(*parts)
    loaders = {
        f"{name}_dataloader": type("L", (), {"dataset": data})
        for name, data in (("train", train), ("val", val))
    }
    runner = type("Runner", (), {**loaders, "val_loop": 1, "model": torch.nn.Linear(1, 1)})
    DataContractHook("test").before_train(runner)
    with pytest.raises(DataError, match="trained on"):
        DataContractHook("val").before_train(runner)
