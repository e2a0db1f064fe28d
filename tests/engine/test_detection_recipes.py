"""The detection recipes in action: weights with their preprocessing under both detectors, one step, whole runs."""

from __future__ import annotations

import json

import pytest
import torch

import sosr_det.register  # noqa: F401
from sosr_det.analysis.pipeline_table import collect_rows
from sosr_det.engine.backbone.source import settle_backbone
from sosr_det.engine.configs import load_config
from sosr_det.engine.evaluate import TestOptions, evaluate_checkpoint
from sosr_det.engine.inference_settings import InferenceSettings
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError
from sosr_det.evaluation.saved_detections import read_detections_file
from sosr_det.registry import Registry, tensors_digest

RECIPES = (
    "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712",
    "detection/retinanet_r50-sosr-pre_fpn_paper30e_voc0712",
    "detection/faster-rcnn_r50-sosr-pre_fpn_1x_voc0712",
)
DEMO = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
NO_WORKERS = [
    f"{section}_dataloader.{setting}"
    for section in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
]


@pytest.mark.parametrize("name", RECIPES)
def test_preprocessing_comes_from_the_entry(registry, name):
    """Another detector, the same flag: RGB, mean and std of the weights, whatever the config said before."""
    expected = Registry().resolve("sosr://resnet18-demo-sosr").manifest.preprocessing
    assert expected.channel_order == "rgb"
    caffe = ["mean=[103.53,116.28,123.675]", "std=[1.0,1.0,1.0]", "bgr_to_rgb=False"]
    cfg = load_config(name, [f"model.data_preprocessor.{setting}" for setting in caffe])
    record, lines = settle_backbone(cfg, "sosr://resnet18-demo-sosr", set_depth=True)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.bgr_to_rgb is True
    assert preprocessor.mean == pytest.approx(expected.mean, abs=1e-3)
    assert preprocessor.std == pytest.approx(expected.std, abs=1e-3)
    assert sum("data_preprocessor" in line for line in lines) == 3  # each said
    assert record["digest"] == Registry().resolve("sosr://resnet18-demo-sosr").digest
    assert cfg.model.neck.in_channels == [64, 128, 256, 512]


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_and_a_prediction(name):
    """With tiny images: the recipe's optimizer moves what it should, and boxes have one of the 20 classes."""
    from mmdet.utils import register_all_modules
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    from sosr_det.analysis.zoo.tiny_inputs import needs_of, prediction_batch, training_batch

    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    cfg = load_config(name, ["model.backbone.init_cfg=None"])
    model = MODELS.build(cfg.model)
    model.init_weights()
    before = {key: value.clone() for key, value in model.named_parameters()}
    runner = Runner.__new__(Runner)
    runner.model = model
    wrapper = Runner.build_optim_wrapper(runner, cfg.optim_wrapper)
    losses = model.train().train_step(training_batch(needs_of(cfg)), wrapper)
    assert torch.isfinite(losses["loss"])
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    stem = {key for key in moved if key.startswith(("backbone.conv1", "backbone.layer1"))}
    assert bool(stem) == ("paper30e" in name)  # MMDetection's 1x freezes stem and layer1
    assert any(key.startswith("backbone.layer4") for key in moved)
    if "paper30e" in name:  # Adam's first step is the learning rate, whatever the gradient
        largest = max((value.detach() - before[key]).abs().max() for key, value in model.named_parameters())
        assert float(largest) == pytest.approx(1e-5, rel=0.05)
    (sample,) = model.eval().test_step(prediction_batch(needs_of(cfg)))
    assert all(0 <= label < 20 for label in sample.pred_instances.labels.tolist())


# ---- whole runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last(pretrained, demo, tmp_path_factory):
    """A one-epoch run that keeps its last epoch, published."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(pretrained[0]))
        return run_training(
            TrainOptions(
                DEMO,
                work_dir=tmp_path_factory.mktemp("last") / "run",
                data_root=demo.voc_devkit,
                total_epochs=1,
                select_on="last",
                classes="scan",
                publish_as="retina-last",
                cfg_options=[s for s in NO_WORKERS if not s.startswith("test")],
            )
        )


def test_last_publishes_the_last_and_trains_on_all(last, registry):
    record = read_run_record(last)
    assert record["selection"] == {
        "on": "last", "asked": "last", "evaluated_on": [], "holdout_fraction": None,
    }  # fmt: skip
    assert record["best"] is None or "best" not in record
    assert record["data"]["train"]["num_samples"] == 40
    assert record["data"]["val"] is None
    assert "val" not in record["epochs"][0]
    assert sum(record["classes_found"].values()) > 40
    assert record["lr_scaling"]["lr"] == 1e-3
    assert sorted(path.name for path in last.glob("*.pth")) == ["epoch_1.pth"]
    saved = torch.load(last / "epoch_1.pth", weights_only=True)["state_dict"]
    assert Registry().resolve("sosr://retina-last").manifest.tensors_digest == tensors_digest(saved)


def test_a_test_leaves_a_record_detections_and_a_note_in_the_run(last, registry, demo):
    # The config does not know the classes that were found; the checkpoint does.
    own = ["test_dataloader.dataset.metainfo.classes=[a,b]"]
    options = TestOptions(DEMO, last, data_root=demo.voc_devkit, cfg_options=NO_WORKERS[4:] + own)
    outcome = evaluate_checkpoint(options)
    assert outcome.work_dir == last / "test"
    written = json.loads((last / "test" / "test.json").read_text())
    assert written["metrics"]["voc/map_11point"] == outcome.metrics["voc/map_11point"]
    assert written["settings"]["score_threshold"] == 0.05
    (noted,) = read_run_record(last)["tests"]
    assert {**noted, "checkpoint": written["checkpoint"]} == written
    assert noted["checkpoint"] == "epoch_1.pth"
    assert noted["data"]["num_samples"] == 20
    data = read_detections_file(outcome.detections)
    assert len(data.image_ids) == 20
    assert list(data.class_names) == list(read_run_record(last)["classes_found"])
    assert all(truth.truncated is not None for truth in data.ground_truth.values())


def test_tta_and_thresholds_are_noted_and_never_stand_for_the_plain_test(last, registry, demo, tmp_path):
    settings = InferenceSettings(tta=True, score_threshold=0.2, nms_iou_threshold=0.4)
    outcome = evaluate_checkpoint(
        TestOptions(
            DEMO, last, tmp_path / "t", demo.voc_devkit, settings=settings, cfg_options=NO_WORKERS[4:]
        )
    )
    data = read_detections_file(tmp_path / "t")
    assert all((found.scores > 0.2).all() for found in data.detections.values())
    noted = read_run_record(last)["tests"][-1]
    assert noted["changed_settings"]["tta"] is True
    assert noted["settings"]["tta"]["scales"] == [[160, 120], [80, 60], [240, 180]]
    assert noted["metrics"]["voc/map_11point"] == outcome.metrics["voc/map_11point"]
    (row,) = collect_rows([last])
    plain = [test for test in read_run_record(last)["tests"] if not test["changed_settings"]]
    if plain and not plain[-1]["cfg_options"]:
        assert row["VOC2007 mAP 11-point"] == pytest.approx(100 * plain[-1]["metrics"]["voc/map_11point"])
    else:
        assert "VOC2007 mAP 11-point" not in row


def test_a_classifiers_test_takes_no_such_settings(pretrained, demo, tmp_path):
    options = TestOptions(
        "demo/resnet18_sosr_1xb32-6e_demo-imagenet",
        pretrained[1],
        work_dir=tmp_path / "t",
        data_root=demo.imagenet,
        settings=InferenceSettings(score_threshold=0.1),
    )
    with pytest.raises(ConfigError, match="are for detectors"):
        evaluate_checkpoint(options)
    assert not (tmp_path / "t").exists()


# ---- the table -----------------------------------------------------------------------------------------------------


def record_of(on, tests=(), **best):
    return {
        "schema_version": 1, "stage": "detection", "status": "completed", "config_name": "c",
        "backbone": {"uri": "torchvision://resnet50"}, "finished": "2026",
        "selection": {"on": on}, "tests": list(tests),
        "data": {"train": {"classes": ["c"] * 20}, "val": None},
        "best": {"checkpoint": "best_e.pth", "val": best["val"]} if best else None,
    }  # fmt: skip


def noted(score, checkpoint="best_e.pth", changed=None, cfg_options=()):
    return {
        "checkpoint": checkpoint, "changed_settings": changed, "cfg_options": list(cfg_options),
        "metrics": {"voc/map_11point": score},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "voc", "chosen"),
    [
        (record_of("test", val={"voc/map_11point": 0.7}), 70.0, None),
        (record_of("val", val={"voc/map_11point": 0.7}), None, 70.0),
        (record_of("val", [noted(0.6)], val={"voc/map_11point": 0.7}), 60.0, 70.0),
        (record_of("val", [noted(0.6), noted(0.65)], val={"voc/map_11point": 0.7}), 65.0, 70.0),
        (record_of("val", [noted(0.6), noted(0.9, changed={"tta": True})], val={"voc/map_11point": 0.7}), 60.0, 70.0),
        (record_of("val", [noted(0.6), noted(0.9, "epoch_9.pth")], val={"voc/map_11point": 0.7}), 60.0, 70.0),
        (record_of("val", [noted(0.6), noted(0.9, cfg_options=["a=1"])], val={"voc/map_11point": 0.7}), 60.0, 70.0),
        (record_of("last", [noted(0.6, "epoch_4.pth")]), 60.0, None),
        (record_of("last"), None, None),
    ],
)  # fmt: skip
def test_the_table_never_shows_what_was_chosen_by_as_a_test(tmp_path, record, voc, chosen):
    (tmp_path / "run.json").write_text(json.dumps(record))
    (row,) = collect_rows([tmp_path])
    assert row.get("VOC2007 mAP 11-point") == (None if voc is None else pytest.approx(voc))
    assert row["epoch chosen on"] == record["selection"]["on"]
    found = [value for title, value in row.items() if title.startswith("val mAP")]
    assert found == ([] if chosen is None else [pytest.approx(chosen)])
