"""From a run to a registry entry: what each stage's manifest says, and what can be done with a detector's entry."""

from __future__ import annotations

import functools
import hashlib
import json

import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.main import app
from sosr_det.engine.evaluate import TestOptions, run_test
from sosr_det.engine.publishing import export_run, publish_name
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.models import build_backbone
from sosr_det.registry import Registry, tensors_digest
from sosr_det.transfer.probe import compute_probe

DETECT = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
PARENT = "a" * 64
NO_WORKERS = [
    f"{loader}_dataloader.{setting}"
    for loader in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
]
CLASSIFIER_CONFIG = (
    "total_epochs = 90\nmodel = dict(backbone=dict(arch='resnet18'), type='BackboneClassifier')\n"
)
DETECTOR_CONFIG = """
model = dict(
    backbone=dict(depth=50, style='caffe', type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], type='DetDataPreprocessor'),
    type='FasterRCNN')
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                1333,
                800,
            ), type='Resize'),
        ],
        type='CheckedVOCDataset'))
"""


@functools.cache
def network():
    """A small real network with drawn weights and the state dict of a classifier on it."""
    torch.manual_seed(0)
    backbone, _ = build_backbone("resnet20")
    return backbone, {f"backbone.{name}": value for name, value in backbone.state_dict().items()}


def state(value=0.5):
    return network()[1] | {"head.weight": torch.full((4,), value)}


@pytest.fixture
def fake_run(tmp_path):
    """``fake_run(stage, **changes)``: a folder as a run of that stage leaves it, with two epochs of tiny weights."""

    def make(stage, tensors=None, **changes):
        folder = tmp_path / stage
        folder.mkdir(exist_ok=True)
        detection = stage == "detection"
        backbone = {"type": "ResNet"}
        preprocessing = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "bgr_to_rgb": False}
        if not detection:
            backbone = build_backbone("resnet20")[1].to_dict()
            preprocessing = {"channel_order": "rgb", "mean": [120.0, 118.0, 103.0], "std": [58.0, 57.0, 57.5]}
            preprocessing["input_size"] = [32, 32]
        values = {
            "voc/map_11point": 0.711,
            "voc/map_area": 0.72,
            "voc/ap_11point/dog": 0.5,
            "voc/ap_area/dog": 0.6,
        }
        values = values if detection else {"accuracy/top1": 71.5, "accuracy/ece": 0.04}
        data = {"type": "ImageFolder", "num_samples": 80, "classes": ["cat", "dog"], "fingerprint": "f" * 64}
        record = {
            "schema_version": 1,
            "stage": stage,
            "status": "completed",
            "config_name": f"{stage}_config",
            "config_text": DETECTOR_CONFIG if detection else CLASSIFIER_CONFIG,
            "config_digest": None,
            "backbone": None,
            "epochs": [
                {"epoch": 1, "val": values},
                {"epoch": 2, "val": {key: value / 2 for key, value in values.items()} | {"x/none": None}},
            ],
            "best": {"checkpoint": "best_x_epoch_1.pth", "epoch": 1},
            "seed": 7,
            "library_versions": {"torch": "2.14.1"},
            "git_commit": "c0ffee",
            "data": {"train": data, "val": data | {"num_samples": 20, "fingerprint": "e" * 64}},
            "model": {
                "type": "FasterRCNN" if detection else "BackboneClassifier",
                "backbone": backbone,
                "preprocessing": preprocessing | {"interpolation": "bilinear"},
            },
        } | changes
        record["config_digest"] = hashlib.sha256(record["config_text"].encode()).hexdigest()
        (folder / "run.json").write_text(json.dumps(record))
        for name, value in (("best_x_epoch_1.pth", 0.5), ("epoch_2.pth", 0.25)):
            torch.save({"state_dict": tensors or state(value=value), "meta": {}}, folder / name)
        return folder

    return make


@pytest.fixture
def publish(tmp_path):
    def call(run, name="x", **options):
        exported = export_run(run, name, registry_root=tmp_path / "registry", **options)
        return exported, Registry(tmp_path / "registry").resolve(exported["pinned_uri"]).manifest

    return call


# ---- what the manifest of each stage says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "backbone", "relation"),
    [
        ("pretrain", None, None),
        ("finetune", {"uri": "sosr://r18@latest", "digest": PARENT}, "finetuned-from"),
        ("detection", {"uri": "sosr://r18@latest", "digest": PARENT}, "detector-on"),
    ],
)
def test_every_stage_leaves_recipe_data_metrics_seed_and_parents(
    fake_run, publish, stage, backbone, relation
):
    run = fake_run(stage, backbone=backbone)
    exported, manifest = publish(run, license_name="MIT")
    record = read_run_record(run)
    assert (manifest.kind, exported["kind"]) == ("detector" if stage == "detection" else "backbone",) * 2
    assert (manifest.recipe.config_name, manifest.recipe.config_text) == (
        f"{stage}_config",
        record["config_text"],
    )
    assert manifest.data == {
        "name": "ImageFolder",
        "fingerprint": "f" * 64,
        "num_samples": 80,
        "evaluated_on": {"name": "ImageFolder", "fingerprint": "e" * 64, "num_samples": 20},
    }
    assert (manifest.seed, manifest.git_commit, manifest.license) == (7, "c0ffee", "MIT")
    assert (manifest.library_versions, manifest.classes) == ({"torch": "2.14.1"}, ("cat", "dog"))
    assert [(p.uri, p.digest, p.relation) for p in manifest.parents] == (
        [("sosr://r18@latest", PARENT, relation)] if relation else []
    )
    assert exported["metrics"] == manifest.metrics


def test_a_backbone_is_the_backbone_alone_and_a_detector_is_whole(fake_run, publish):
    _, manifest = publish(fake_run("pretrain"))
    backbone = network()[0]
    assert manifest.tensors_digest == tensors_digest(backbone.state_dict())
    assert manifest.probe == compute_probe(backbone.eval(), manifest.preprocessing)
    assert (manifest.arch.name, manifest.arch.library, manifest.metrics) == (
        "resnet20",
        "pytorchcv",
        {"top1": 71.5, "ece": 0.04},
    )
    _, manifest = publish(fake_run("detection"))
    assert manifest.tensors_digest == tensors_digest(state())
    assert manifest.probe is None
    arch = manifest.arch
    assert (arch.name, arch.library, arch.style, arch.feature_channels) == (
        "FasterRCNN",
        "mmdet",
        "caffe",
        (),
    )
    prep = manifest.preprocessing
    assert (prep.channel_order, prep.mean, prep.std) == ("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert prep.input_size == (800, 1333)  # MMDetection's scale is (width, height)


def test_per_class_figures_of_two_kinds_do_not_overwrite_each_other(fake_run, publish):
    _, manifest = publish(fake_run("detection"))
    assert manifest.metrics == {
        "map_11point": 0.711,
        "map_area": 0.72,
        "ap_11point/dog": 0.5,
        "ap_area/dog": 0.6,
    }
    assert manifest.summary().metrics == {"map_11point": 0.711, "map_area": 0.72}


def test_mmdetections_metric_names_are_those_that_lists_show(fake_run, publish):
    epochs = [{"epoch": 1, "val": {"coco/bbox_mAP": 0.36, "coco/bbox_mAP_50": 0.55, "coco/bbox_mAP_s": 0.2}}]
    _, manifest = publish(fake_run("detection", epochs=epochs))
    assert manifest.metrics == {"map": 0.36, "ap50": 0.55, "bbox_mAP_s": 0.2}


def test_the_checkpoint_decides_whose_metrics_are_published(fake_run, publish):
    run = fake_run("detection")
    assert publish(run / "epoch_2.pth")[1].metrics["map_11point"] == 0.711 / 2
    assert publish(run)[1].metrics["map_11point"] == 0.711
    assert "epoch 2" in publish(run / "epoch_2.pth")[1].notes


@pytest.mark.parametrize(
    ("changes", "parent"),
    [
        ({"backbone": {"uri": "torchvision://resnet50", "digest": None}}, ("torchvision://resnet50", None)),
        ({"backbone": {"uri": "/home/me/weights/r50.pth", "digest": None}}, ("r50.pth", None)),
        ({"load_from": f"sosr://sha256:{PARENT}"}, (f"sosr://sha256:{PARENT}", PARENT)),
        (
            {"load_from": "/data/old.pth", "backbone": {"uri": "sosr://r18@latest", "digest": PARENT}},
            ("old.pth", None),
        ),
    ],
)
def test_parents_outside_the_registry_are_named_without_this_machines_folders(
    fake_run, publish, changes, parent
):
    (found,) = publish(fake_run("detection", **changes))[1].parents
    assert (found.uri, found.digest) == parent
    assert found.relation == ("finetuned-from" if "load_from" in changes else "detector-on")


def test_export_refuses_what_it_cannot_describe(fake_run, tmp_path, publish):
    cases = [
        (fake_run("detection", config_text=DETECTOR_CONFIG.replace("'Resize'", "'Pad'")), "no Resize step"),
        (
            fake_run("pretrain", model={"type": "X", "backbone": {"type": "ResNet"}}),
            "without an exportable backbone",
        ),
        (fake_run("finetune", tensors=state() | {"backbone.x": torch.tensor(float("nan"))}), "x holds NaN"),
    ]
    few = {name: value for name, value in state().items() if not name.endswith("running_var")}
    for run, said in cases:
        with pytest.raises(CheckpointError, match=said):
            publish(run)
    with pytest.raises(CheckpointError, match="does not hold the resnet20"):
        publish(fake_run("finetune", tensors=few))
    with pytest.raises(CheckpointError, match=r"head\.weight holds NaN"):
        publish(fake_run("detection", tensors=state() | {"head.weight": torch.tensor([float("inf")])}))
    assert not (tmp_path / "registry").exists()


def test_export_on_the_command_line_says_what_kind_it_published(fake_run, tmp_path):
    arguments = [
        "export",
        str(fake_run("detection")),
        "--name",
        "frcnn@v1",
        "--registry",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("published detector sosr://frcnn@v1\n  sosr://sha256:")
    again = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (again["kind"], again["uri"]) == ("detector", "sosr://frcnn@v1")
    assert Registry(tmp_path / "r").tags("frcnn") == ["latest", "v1"]


# ---- a real detector -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(pretrained, demo, tmp_path_factory):
    """Run folder of a one-epoch detector that was published as ``retina@v1``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(pretrained[0]))
        work_dir = tmp_path_factory.mktemp("detector") / "run"
        return run_training(
            TrainOptions(
                DETECT, work_dir=work_dir, data_root=demo.voc_devkit, total_epochs=1, publish_as="retina@v1",
                select_on="test", cfg_options=NO_WORKERS,
            )
        )  # fmt: skip


def test_a_trained_detector_is_published_whole_with_its_backbone_as_parent(detector, registry):
    record = read_run_record(detector)
    entry = Registry().resolve("sosr://retina")
    manifest = entry.manifest
    assert record["published"]["digest"] == entry.digest
    saved = torch.load(detector / record["best"]["checkpoint"], weights_only=True)["state_dict"]
    assert manifest.tensors_digest == tensors_digest(saved)
    assert any(name.startswith("bbox_head.") for name in manifest.tensors)
    parent = Registry().resolve("sosr://resnet18-demo-sosr")
    (found,) = manifest.parents
    assert (found.digest, found.relation) == (parent.digest, "detector-on")
    assert (manifest.kind, manifest.arch.name, manifest.arch.style) == ("detector", "RetinaNet", "pytorch")
    assert manifest.metrics["map_11point"] == record["best"]["val"]["voc/map_11point"]
    assert manifest.preprocessing.input_size == (120, 160)
    assert manifest.preprocessing.channel_order == "rgb"
    assert manifest.preprocessing.mean == parent.manifest.preprocessing.mean
    assert len(manifest.data["fingerprint"]) == 64
    assert manifest.data["num_samples"] == 40
    assert len(manifest.classes) == 20


def test_testing_the_entry_gives_the_recorded_map(detector, registry, demo, tmp_path):
    options = TestOptions(
        DETECT, "sosr://retina@v1", work_dir=tmp_path, data_root=demo.voc_devkit, cfg_options=NO_WORKERS
    )
    metrics = run_test(options)
    recorded = read_run_record(detector)["best"]["val"]["voc/map_11point"]
    assert metrics["voc/map_11point"] == pytest.approx(recorded, abs=1e-12)
    pinned = Registry().resolve("sosr://retina@v1").pinned_uri
    assert json.loads((tmp_path / "test.json").read_text())["checkpoint"] == pinned


@pytest.mark.parametrize(
    ("uri", "overrides", "error", "said"),
    [
        ("sosr://resnet18-demo-sosr", [], CheckpointError, r"holds a backbone \(resnet18\) without a head"),
        (
            "sosr://retina",
            ["model.type=FCOS"],
            ConfigError,
            "holds a RetinaNet, but the config's model is a FCOS",
        ),
        ("sosr://retina", ["model.data_preprocessor.bgr_to_rgb=False"], ConfigError, "channel order"),
        ("sosr://retina", ["model.data_preprocessor.mean=[0,0,0]"], ConfigError, "mean"),
    ],
)
def test_testing_refuses_what_does_not_fit(detector, registry, demo, tmp_path, uri, overrides, error, said):
    with pytest.raises(error, match=said):
        run_test(
            TestOptions(
                DETECT,
                uri,
                work_dir=tmp_path / "t",
                data_root=demo.voc_devkit,
                cfg_options=[*NO_WORKERS, *overrides],
            )
        )
    assert not (tmp_path / "t").exists()


def test_a_detector_goes_on_from_a_detector(detector, registry, demo, tmp_path):
    options = TrainOptions(
        DETECT, work_dir=tmp_path / "run", data_root=demo.voc_devkit, total_epochs=1, publish_as="retina-2",
        cfg_options=[*NO_WORKERS, "load_from=sosr://retina@v1", "optim_wrapper.optimizer.lr=0.0"],
    )  # fmt: skip
    run_training(options)
    parent, child = Registry().resolve("sosr://retina@v1"), Registry().resolve("sosr://retina-2")
    assert parent.pinned_uri in read_run_record(tmp_path / "run")["config_text"]
    assert [(p.uri, p.digest, p.relation) for p in child.manifest.parents] == [
        (parent.pinned_uri, parent.digest, "finetuned-from")
    ]
    before, after = Registry().load(parent), Registry().load(child)
    trained = [name for name in after if name.endswith(("weight", "bias")) and "bn" not in name]
    assert trained
    assert all(torch.equal(before[name], after[name]) for name in trained)  # the learning rate is 0


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        (
            DETECT,
            ["model.backbone.init_cfg.checkpoint=sosr://retina"],
            "whole detector.*sosr://resnet18-demo-sosr@lat",
        ),
        (DETECT, ["load_from=sosr://resnet18-demo-sosr"], "holds a backbone"),
        (DETECT, ["load_from=sosr://retina", "model.type=FCOS"], "holds a RetinaNet"),
        ("demo/resnet18_ce_1xb32-6e_demo-imagenet", ["load_from=sosr://retina"], "into a detection run"),
    ],
)
def test_detectors_and_backbones_are_not_confused(
    detector, registry, demo, tmp_path, config, overrides, said
):
    root = demo.voc_devkit if config == DETECT else demo.imagenet
    with pytest.raises(ConfigError, match=said):
        run_training(TrainOptions(config, work_dir=tmp_path / "run", data_root=root, cfg_options=overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "publish", "publish_as", "expected"),
    [
        ({"stage": "detection"}, True, None, None),
        ({"stage": "detection"}, True, "retina@v1", "retina@v1"),
        ({"stage": "detection", "publish": {"name": "mine"}}, True, None, "mine"),
        ({"stage": "pretrain", "publish": {"name": "mine"}}, True, "other", "other"),
        ({"stage": "pretrain", "publish": {"name": "mine"}}, False, "other", None),
    ],
)
def test_a_run_is_published_under_the_name_that_was_given(config, publish, publish_as, expected):
    assert publish_name(config, publish, publish_as) == expected
