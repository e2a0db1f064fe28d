"""Settings of a test: thresholds, scale and augmentation, on whatever head a config has; and what a test records."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import load_config
from sosr_det.engine.inference_settings import InferenceSettings, apply_inference_settings, parse_image_scale
from sosr_det.engine.test_record import TEST_FILE, add_to_run, fill_truncated, write_test_record
from sosr_det.errors import ConfigError
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.saved_detections import read_detections_file, write_detections

RETINA = "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712"
FASTER = "detection/faster-rcnn_r50-sosr-pre_fpn_1x_voc0712"
CASCADE = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
DETR = "mmdet::detr/detr_r50_8xb2-150e_coco.py"


def applied(config, *changes, **settings):
    cfg = load_config(config)
    for change in changes:
        change(cfg)
    return cfg, apply_inference_settings(cfg, InferenceSettings(**settings))


# ---- thresholds and scale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (RETINA, lambda model: model.test_cfg),
        (FASTER, lambda model: model.test_cfg.rcnn),
        (CASCADE, lambda model: model.test_cfg.rcnn),
    ],
)
def test_thresholds_reach_the_final_detections_of_any_head(config, place):
    cfg, used = applied(config, score_threshold=0.001, nms_iou_threshold=0.6, image_scale=(512, 300))
    assert (place(cfg.model).score_thr, place(cfg.model).nms.iou_threshold) == (0.001, 0.6)
    assert used == {
        "tta": False, "score_threshold": 0.001, "nms_iou_threshold": 0.6, "image_scale": [512, 300],
    }  # fmt: skip
    if "rpn" in cfg.model.test_cfg:  # the proposals' own suppression is another setting
        assert cfg.model.test_cfg.rpn.nms.iou_threshold == 0.7
    scales = [step["scale"] for step in cfg.test_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert scales == [(512, 300)]


def test_nothing_asked_changes_nothing_and_is_recorded_whole():
    for config, scale in ((RETINA, [1000, 600]), (FASTER, [1000, 600])):
        cfg, used = applied(config)
        assert cfg.to_dict() == load_config(config).to_dict()
        assert used == {
            "tta": False, "score_threshold": 0.05, "nms_iou_threshold": 0.5, "image_scale": scale,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"score_threshold": -0.01}, "--score-threshold"),
        ({"score_threshold": 1.0}, "--score-threshold"),
        ({"score_threshold": float("nan")}, "--score-threshold"),
        ({"nms_iou_threshold": 1.01}, "--nms-iou-threshold"),
        ({"nms_iou_threshold": -1e-9}, "--nms-iou-threshold"),
        ({"image_scale": (31, 600)}, "--image-scale"),
        ({"image_scale": (600, 10_001)}, "--image-scale"),
    ],
)
def test_values_out_of_range_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        InferenceSettings(**settings)


def test_both_ends_that_mean_something_are_taken():
    InferenceSettings(score_threshold=0, nms_iou_threshold=0, image_scale=(32, 10_000))
    InferenceSettings(score_threshold=0.999, nms_iou_threshold=1)


@pytest.mark.parametrize("text", ["1000", "1000,600,3", "a,b", "1000,6.5", ""])
def test_a_scale_is_two_numbers(text):
    assert parse_image_scale("1000,600") == parse_image_scale("1000x600") == (1000, 600)
    with pytest.raises(ConfigError, match="W,H"):
        parse_image_scale(text)


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (DETR, {"score_threshold": 0.1}, r"DETR has no test_cfg\.score_thr"),
        (DETR, {"nms_iou_threshold": 0.6}, r"DETR has no test_cfg\.nms\.iou_threshold"),
        (DETR, {"tta": True}, "merges the views"),
    ],
)
def test_a_head_without_such_a_place_is_refused(config, settings, said):
    with pytest.raises(ConfigError, match=said):
        applied(config, **settings)


def test_a_pipeline_without_a_fixed_scale_is_refused():
    def other(cfg):
        cfg.test_dataloader.dataset.pipeline[1] = {
            "type": "Resize",
            "scale_factor": 0.5,
            "keep_ratio": True,
        }

    for settings in ({"image_scale": (500, 300)}, {"tta": True}):
        with pytest.raises(ConfigError, match=r"no fixed scale|Resize to a fixed scale"):
            applied(RETINA, other, **settings)


# ---- test-time augmentation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [RETINA, FASTER])
def test_tta_wraps_the_model_and_loads_the_truth_last(config):
    cfg, used = applied(config, tta=True, nms_iou_threshold=0.6, image_scale=(500, 300))
    assert cfg.model.type == "DetTTAModel"
    assert cfg.model.module.backbone.depth == 50
    assert cfg.model.tta_cfg.nms.iou_threshold == 0.6
    assert cfg.model.tta_cfg.max_per_img == 100
    assert used["tta"] == {"scales": [[500, 300], [250, 150], [750, 450]], "flip": True}
    *_, views = cfg.test_dataloader.dataset.pipeline
    kinds = [[step["type"] for step in group] for group in views["transforms"]]
    # Ground truth after Resize and RandomFlip: it stays that of the image as it is in the file.
    assert kinds == [["Resize"] * 3, ["RandomFlip"] * 2, ["LoadAnnotations"], ["PackDetInputs"]]
    assert {"flip", "flip_direction", "scale_factor"} <= set(views["transforms"][-1][0]["meta_keys"])


def test_a_configs_own_tta_is_used():
    own = [
        {"type": "LoadImageFromFile"},
        {"type": "TestTimeAug", "transforms": [[{"type": "Resize", "scale": (9, 9)}]]},
    ]

    def add(cfg):
        cfg.tta_pipeline = own
        cfg.tta_model = {"type": "DetTTAModel", "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 0.3}}}

    cfg, used = applied(RETINA, add, tta=True)
    assert used["tta"]["scales"] == [[9, 9]]
    assert cfg.model.tta_cfg.nms.iou_threshold == 0.3
    with pytest.raises(ConfigError, match="scales of its own"):
        applied(RETINA, add, tta=True, image_scale=(500, 300))


def test_a_scale_that_halves_to_nothing_is_refused():
    with pytest.raises(ConfigError, match="below 32 px"):
        applied(RETINA, tta=True, image_scale=(100, 60))


@pytest.mark.parametrize("config", [RETINA, FASTER])
def test_tta_predicts_in_the_coordinates_of_the_file(config, tmp_path):
    """A detector whose boxes follow the picture, not the view: all six views agree on one box."""
    import cv2
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.registry import MODELS, TRANSFORMS
    from mmengine.structures import InstanceData

    register_all_modules(init_default_scope=True)
    cfg, _ = applied(config, tta=True, image_scale=(128, 96))
    image = np.zeros((48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    steps = [TRANSFORMS.build(step) for step in cfg.test_dataloader.dataset.pipeline]
    data = {
        "img_path": str(tmp_path / "a.png"), "img_id": "a", "height": 48, "width": 64,
        "instances": [{"bbox": [4, 8, 20, 30], "bbox_label": 0, "ignore_flag": 0}],
    }  # fmt: skip
    for step in steps:
        data = step(data)
    truths = {tuple(sample.gt_instances.bboxes.tensor[0].tolist()) for sample in data["data_samples"]}
    assert truths == {(4.0, 8.0, 20.0, 30.0)}
    assert len(data["inputs"]) == 6

    class Seer(torch.nn.Module):
        """Sees the object where it is in the view, and answers in the file's scale, as detectors do."""

        def test_step(self, batch):
            found = []
            for sample in batch["data_samples"]:
                left, right = (44, 60) if sample.flip else (4, 20)
                result = DetDataSample(metainfo=sample.metainfo)
                result.pred_instances = InstanceData(
                    bboxes=torch.tensor([[left, 8.0, right, 30.0]]),
                    scores=torch.tensor([0.9]),
                    labels=torch.tensor([0]),
                )
                found.append(result)
            return found

    model = MODELS.build({**cfg.model, "module": Seer()})
    batch = {key: [[view] for view in value] for key, value in data.items()}
    (merged,) = model.test_step(batch)
    torch.testing.assert_close(merged.pred_instances.bboxes, torch.tensor([[4.0, 8.0, 20.0, 30.0]]))


# ---- what a test records -------------------------------------------------------------------------------------------


def test_a_record_replaces_the_old_one_and_nan_is_null(tmp_path):
    paths = [tmp_path / "new" / TEST_FILE, tmp_path / "out.json"]
    (tmp_path / "out.json").write_text("old")
    write_test_record(paths, {"metrics": {"voc/ap_area/dog": float("nan"), "voc/map_area": 0.25}})
    for path in paths:
        assert json.loads(path.read_text()) == {"metrics": {"voc/ap_area/dog": None, "voc/map_area": 0.25}}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out.json"]


def test_a_run_keeps_all_its_tests(tmp_path):
    assert not add_to_run(tmp_path, {"metrics": {}})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.json").write_text('{"schema_version": 1, "status": "completed"}')
    assert add_to_run(tmp_path, {"n": 1})
    assert add_to_run(tmp_path, {"n": 2})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["tests"] == [{"n": 1}, {"n": 2}]
    assert record["status"] == "completed"


class Truncating:
    """Two images; the same box twice in the first, one of them truncated."""

    records = (
        [([1, 2, 30, 40], 0, False), ([1, 2, 30, 40], 0, True), ([5, 5, 9, 9], 1, False)],
        [([0, 0, 7, 7], 1, True)],
    )

    def __len__(self):
        return len(self.records)

    def get_data_info(self, index):
        return {"instances": [{"bbox": box, "bbox_label": label} for box, label, _ in self.records[index]]}

    def truncated(self, index):
        return [flag for *_, flag in self.records[index]]


def saved(path):
    truth = {
        "cat": GroundTruth([0, 0], [[1, 2, 30, 40], [1, 2, 30, 40]], [False, True]),
        "dog": GroundTruth([1, 0], [[0, 0, 7, 7], [5, 5, 9, 9]], [False, False]),
    }
    found = {"cat": Detections([1], [[0, 0, 5, 5]], [0.5]), "dog": Detections.empty()}
    return write_detections(path / "detections.npz", EvaluationSet(["cat", "dog"], ["a", "b"], truth, found))


def test_truncated_flags_join_the_saved_boxes(tmp_path):
    assert fill_truncated(saved(tmp_path), Truncating())
    data = read_detections_file(tmp_path)
    assert sorted(data.ground_truth["cat"].truncated) == [False, True]
    assert data.ground_truth["dog"].truncated.tolist() == [True, False]
    assert data.ground_truth["dog"].difficult.tolist() == [False, False]
    assert data.num_detections == 1
    half = (Truncating(), Truncating())
    half[0].records, half[1].records = Truncating.records[:1], Truncating.records[1:]
    assert fill_truncated(saved(tmp_path), SimpleNamespace(datasets=half))  # a ConcatDataset
    assert read_detections_file(tmp_path).ground_truth["dog"].truncated.tolist() == [True, False]


def test_flags_of_other_data_are_not_taken(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    other = Truncating()
    other.records = (Truncating.records[0], [([0, 0, 8, 7], 1, True)])
    assert not fill_truncated(path, other)
    other.records = Truncating.records[:1]
    assert not fill_truncated(path, other)
    assert not fill_truncated(path, object())
    assert path.read_bytes() == before
