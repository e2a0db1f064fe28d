"""The mmengine metric: from MMDetection's data samples to the numbers of ``voc_ap``."""

from __future__ import annotations

import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData

from sosr_det.evaluation import voc_metric
from sosr_det.evaluation.all_metrics import evaluate_detections, extra_metric_names
from sosr_det.evaluation.data_samples import read_sample, to_evaluation_set, without_padding
from sosr_det.evaluation.saved_detections import read_detections_file
from sosr_det.evaluation.voc_ap import evaluate_voc
from sosr_det.evaluation.voc_metric import VOCDevkitMetric
from sosr_det.evaluation.voc_table import format_table

CLASSES = ("cat", "dog", "owl")


def instances(rows):
    """Rows ``(label, box)`` or ``(label, box, score)``."""
    data = InstanceData(
        bboxes=torch.tensor([r[1] for r in rows], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([r[0] for r in rows], dtype=torch.int64),
    )
    if rows and len(rows[0]) == 3:
        data.scores = torch.tensor([r[2] for r in rows], dtype=torch.float32)
    return data


def data_sample(truth=(), ignored=(), found=(), **meta):
    sample = BaseDataElement(metainfo={"ori_shape": (100, 200), **meta})
    sample.gt_instances = instances(list(truth))
    sample.ignored_instances = instances(list(ignored))
    sample.pred_instances = instances(list(found))
    if not found:
        sample.pred_instances.scores = torch.zeros(0)
    return sample


@pytest.fixture
def log(monkeypatch):
    """Messages as ``(level, text)``."""
    messages = []
    monkeypatch.setattr(
        voc_metric,
        "print_log",
        lambda text, logger=None, level=logging.INFO: messages.append((level, text)),
    )
    return messages


def warnings_of(log):
    return [text for level, text in log if level >= logging.WARNING]


def evaluate(samples, size=None, classes=CLASSES, **options):
    # As the runner does it: built from the config in the scope of MMDetection, fed through the evaluator.
    with DefaultScope.overwrite_default_scope("mmdet"):
        evaluator = Evaluator([METRICS.build({"type": "VOCDevkitMetric", **options})])
    evaluator.dataset_meta = {"classes": classes}
    for sample in samples:
        evaluator.process(data_samples=[sample], data_batch=None)
    return evaluator.evaluate(len(samples) if size is None else size)


BOX = (0, 0, 9, 9)
FAR = (50, 50, 59, 59)


def test_by_hand(log):
    samples = [
        data_sample(
            truth=[(0, BOX), (1, FAR)],
            ignored=[(0, FAR)],
            found=[(0, BOX, 0.9), (0, FAR, 0.95), (1, BOX, 0.5)],
            img_id="1",
        ),
        data_sample(truth=[(0, BOX)], found=[(2, BOX, 0.5)], img_id="2"),
    ]
    metrics = evaluate(samples)
    assert list(metrics)[:2] == ["voc/map_11point", "voc/map_area"]
    assert metrics["voc/num_images"] == 2
    # cat: one of two found, the detection of the difficult one does not count; dog: missed; owl: not there.
    assert metrics["voc/ap_area/cat"] == 0.5
    assert metrics["voc/ap_11point/cat"] == pytest.approx(6 / 11, abs=1e-15)
    assert metrics["voc/ap_area/dog"] == 0.0
    assert math.isnan(metrics["voc/ap_area/owl"])
    assert math.isnan(metrics["voc/ap_11point/owl"])
    assert metrics["voc/map_area"] == 0.25
    assert metrics["voc/map_11point"] == pytest.approx(3 / 11, abs=1e-15)
    assert len(warnings_of(log)) == 1
    assert "for 1 of 3 classes: owl (1 detections)" in warnings_of(log)[0]


def test_table(log):
    samples = [
        data_sample(truth=[(0, BOX)], ignored=[(1, BOX)], found=[(0, BOX, 0.9), (2, FAR, 0.1)], img_id="1")
    ]
    evaluate(samples, classes=("[cat]", "dog", "owl"))
    table = log[-1][1]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["class", "ground truth", "difficult", "detections", "AP 11-point", "AP area"]
    assert rows[1] == ["[cat]", "1", "0", "1", "100.00", "100.00"]  # brackets are no markup
    assert rows[2] == ["dog", "0", "1", "0", "-", "-"]
    assert rows[3] == ["owl", "0", "0", "1", "-", "-"]
    assert rows[4] == ["mean of 1", "1", "1", "2", "100.00", "100.00"]
    assert "\x1b" not in table


def test_values_are_not_rounded(log):
    truth = [(0, BOX)]
    samples = [
        data_sample(truth=truth, found=[(0, BOX, 0.9)] if i < 1 else [], img_id=str(i)) for i in range(7)
    ]
    assert evaluate(samples, classes=("cat",))["voc/map_area"] == 1 / 7


def test_no_warning_without_reason(log):
    evaluate([data_sample(truth=[(0, BOX)], found=[(0, BOX, 0.9)], img_id="1")], classes=("cat",))
    assert warnings_of(log) == []


def test_resized_ground_truth_is_noticed(log):
    samples = [data_sample(truth=[(0, (0, 0, 400, 90))], img_id="7", img_path="a/7.jpg")]
    evaluate(samples, classes=("cat",))
    assert "beyond its image in 1 images, first a/7.jpg" in warnings_of(log)[0]
    assert "LoadAnnotations before Resize" in warnings_of(log)[0]


def test_images_left_out_or_repeated_are_noticed(log):
    sample = data_sample(truth=[(0, BOX)], img_id="7")
    evaluate([sample, sample], size=3, classes=("cat",))
    assert "only 2 of the data set's 3 images" in warnings_of(log)[0]
    assert "1 images were evaluated more than once, first 7" in warnings_of(log)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"found": [(0, BOX, math.nan)]}, r"image a/7.jpg: pred_instances has the score nan"),
        ({"found": [(0, (0, 0, math.inf, 1), 0.5)]}, r"pred_instances has the box \[0.0, 0.0, inf, 1.0\]"),
        ({"found": [(3, BOX, 0.5)]}, r"pred_instances has the label 3, but the data set has 3 classes"),
        ({"truth": [(-1, BOX)]}, r"gt_instances has the label -1"),
        ({"ignored": [(4, BOX)]}, r"ignored_instances has the label 4"),
    ],
)
def test_unusable_samples(changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate([data_sample(**changes, img_path="a/7.jpg")])


def test_unusable_options_and_no_images():
    with pytest.raises(ValueError, match="iou_threshold must be"):
        VOCDevkitMetric(iou_threshold=1.5)
    with pytest.raises(ValueError, match="recall_thresholds must be"):
        VOCDevkitMetric(recall_thresholds="float")
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate([])
    with pytest.raises(ValueError, match=r"needs dataset_meta\['classes'\]"):
        evaluate([data_sample()], classes=())


def test_options_are_used(log):
    samples = [
        data_sample(truth=[(0, BOX)], found=[(0, (0, 0, 9, 4), 0.9)] if i < 3 else [], img_id=str(i))
        for i in range(10)
    ]
    assert evaluate(samples, classes=("cat",))["voc/map_area"] == 0.0  # IoU exactly 0.5
    metrics = evaluate(samples, classes=("cat",), iou_threshold=0.4, prefix="p")
    assert metrics["p/map_11point"] == pytest.approx(4 / 11, abs=1e-15)
    metrics = evaluate(samples, classes=("cat",), iou_threshold=0.4, recall_thresholds="arange")
    assert metrics["voc/map_11point"] == pytest.approx(3 / 11, abs=1e-15)


def random_samples(num_images):
    generator = torch.Generator().manual_seed(0)

    def rows(count, with_score):
        corners = torch.randint(0, 12, (count, 2), generator=generator)
        boxes = torch.cat(
            [corners, corners + torch.randint(3, 12, (count, 2), generator=generator)], dim=1
        ).tolist()
        labels = torch.randint(3, (count,), generator=generator).tolist()
        scores = (torch.randint(5, (count,), generator=generator) / 5).tolist()
        return [
            (lab, b, s) if with_score else (lab, b) for lab, b, s in zip(labels, boxes, scores, strict=True)
        ]

    return [
        data_sample(truth=rows(4, False), ignored=rows(1, False), found=rows(15, True), img_id=str(i))
        for i in range(num_images)
    ]


def _evaluate_rank(rank, folder, results):
    """One of two processes: mmengine's padded sampler, then one that deals out halves and repeats in the middle."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    samples = random_samples(9)
    from mmengine.dataset import DefaultSampler

    dealt = {
        "mmengine": list(DefaultSampler(samples, shuffle=False)),
        "unpadded": list(DefaultSampler(samples, shuffle=False, round_up=False)),
        "halves": [[0, 1, 2, 3, 0], [4, 5, 6, 7, 8]][rank],
    }
    for name, indices in dealt.items():
        metric = VOCDevkitMetric(
            collect_dir=f"{folder}/collect", iou_thresholds=[0.75], save_to=f"{folder}/{name}.npz"
        )
        metric.dataset_meta = {"classes": CLASSES}
        metric.process(None, [samples[index].to_dict() for index in indices])
        results[rank, name] = (indices, metric.evaluate(len(samples)))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_result_of_one(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        shared = manager.dict()
        torch.multiprocessing.start_processes(
            _evaluate_rank, args=(str(tmp_path), shared), nprocs=2, start_method="spawn"
        )
        results = dict(shared)
    expected = evaluate(random_samples(9), iou_thresholds=[0.75])
    assert 0 < expected["voc/map_area"] < 1
    assert expected["voc/num_images"] == 9
    assert results[0, "mmengine"][0] + results[1, "mmengine"][0] == [0, 2, 4, 6, 8, 1, 3, 5, 7, 0]  # padded
    assert len(results[1, "unpadded"][0]) == 4
    for name in ("mmengine", "unpadded"):
        assert results[0, name][1] == results[1, name][1] == expected
        assert read_detections_file(tmp_path / f"{name}.npz").image_ids == tuple("012345678")
    # Every image once there too, if in another order, which decides between equal scores.
    halves = read_detections_file(tmp_path / "halves.npz")
    assert halves.image_ids == tuple("041526378")
    found = evaluate([random_samples(9)[int(name)] for name in halves.image_ids], iou_thresholds=[0.75])
    assert results[0, "halves"][1] == found
    assert sorted(path.name for path in tmp_path.glob("*.npz*")) == [
        "halves.npz",
        "mmengine.npz",
        "unpadded.npz",
    ]


def read(sample, number=0):
    return read_sample(sample.to_dict(), number, 3)  # as mmengine's Evaluator hands them over


def named(*names):
    return [read(data_sample(img_id=name, img_path=None)) for name in names]


def test_padding_is_dropped_by_name_from_behind():
    def left(results, size):
        return [r.image_id for r in without_padding(results, size)]

    assert left(named("a", "b", "c"), 3) == ["a", "b", "c"]
    assert left(named("a", "b", "c", "a"), 3) == ["a", "b", "c"]
    assert left(named("a", "b", "a", "c"), 3) == ["a", "b", "c"]
    # An image that the data set lists twice stays twice.
    assert left(named("a", "a", "b", "a"), 3) == ["a", "a", "b"]
    assert left(named("a", "a"), 3) == ["a", "a"]
    # Without names: mmengine's order.
    assert left(named(None, None, None), 2) == [None, None]
    # The same id in two folders is not the same image.
    folders = [read(data_sample(img_id="1", img_path=f"{f}/1.jpg")) for f in "abca"]
    assert [r.path for r in without_padding(folders, 3)] == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]


def test_zero_based_samples_give_the_result_of_the_one_based_files(yolov2, log):
    """A part of VOC2007 test through data samples as MMDetection gives them: float32, 0-based."""
    data, _ = yolov2
    classes, num_images, all_ids = ("car", "chair", "person"), 400, data.image_ids

    def part(boxes, other):
        kept = boxes.image_index < num_images
        return type(boxes)(boxes.image_index[kept], boxes.boxes[kept], getattr(boxes, other)[kept])

    ground_truth = {name: part(data.ground_truth[name], "difficult") for name in classes}
    detections = {name: part(data.detections[name], "scores") for name in classes}
    expected = evaluate_voc(ground_truth, detections, classes)

    samples = []
    for index in range(num_images):
        rows = {"truth": [], "ignored": [], "found": []}
        for label, name in enumerate(classes):
            gt, det = ground_truth[name], detections[name]
            for i in np.flatnonzero(gt.image_index == index):
                rows["ignored" if gt.difficult[i] else "truth"].append((label, (gt.boxes[i] - 1).tolist()))
            for i in np.flatnonzero(det.image_index == index):
                rows["found"].append((label, (det.boxes[i] - 1).tolist(), det.scores[i]))
        samples.append(data_sample(**rows, img_id=all_ids[index], ori_shape=(500, 500)))
    metrics = evaluate(samples, classes=classes)
    for name, ap in expected.per_class.items():
        assert ap.num_true_positives > 50
        assert metrics[f"voc/ap_11point/{name}"] == pytest.approx(ap.ap_11point, abs=1e-9)
        assert metrics[f"voc/ap_area/{name}"] == pytest.approx(ap.ap_area, abs=1e-9)
    assert format_table(expected) == log[-1][1].lstrip("\n")


# --- more thresholds, COCO, files


def test_more_thresholds_and_coco(log):
    samples = random_samples(8)
    plain = evaluate(samples)
    metrics = evaluate(samples, iou_thresholds=[0.25, 0.625, 0.5], coco=True)
    assert {key: metrics[key] for key in plain} == plain  # what checkpoints are chosen by
    for threshold, name in ((0.25, "iou25"), (0.625, "iou62.5"), (0.5, "iou50")):
        alone = evaluate(samples, iou_threshold=threshold)
        for mean in ("map_11point", "map_area"):
            assert metrics[f"voc/{mean}_{name}"] == alone[f"voc/{mean}"]
    assert metrics["voc/map_area_iou25"] > metrics["voc/map_area"] > metrics["voc/map_area_iou62.5"]
    assert 0 < metrics["voc/coco_ap"] < metrics["voc/coco_ap50"] < 1
    assert math.isnan(metrics["voc/coco_ap_large"])
    added = [key.removeprefix("voc/") for key in metrics if key not in plain]
    assert added == extra_metric_names([0.25, 0.625, 0.5], True)
    assert len(added) == 6 + 12
    for options in (
        {"iou_thresholds": [1.5]},
        {"iou_comparison": "="},
        {"iou_thresholds": [0], "iou_comparison": ">="},
    ):
        with pytest.raises(ValueError, match=r"iou_(threshold|comparison) must be"):
            VOCDevkitMetric(**options)


def test_comparison_is_an_option(log):
    samples = [data_sample(truth=[(0, BOX)], found=[(0, (0, 0, 9, 4), 0.9)], img_id="1")]  # IoU exactly 0.5
    assert evaluate(samples, classes=("cat",))["voc/map_area"] == 0.0
    assert evaluate(samples, classes=("cat",), iou_comparison=">=")["voc/map_area"] == 1.0
    assert "IoU >= 0.5" in log[-1][1]


def test_what_is_saved_gives_the_same_metrics(tmp_path, log):
    samples = random_samples(5)
    for index, sample in enumerate(samples):
        sample.set_metainfo({"img_path": f"images/{index}.jpg", "ori_shape": (100 + index, 50)})
    path = tmp_path / "run" / "detections.npz"
    metrics = evaluate(samples, save_to=str(path), iou_thresholds=[0.75])
    data = read_detections_file(path)
    assert data.image_ids == ("0", "1", "2", "3", "4")
    assert data.image_paths == tuple(f"images/{index}.jpg" for index in range(5))
    np.testing.assert_array_equal(data.image_sizes, [[50, 100 + index] for index in range(5)])
    again = evaluate_detections(data, iou_thresholds=[0.5, 0.75])
    assert again.first.map_area == metrics["voc/map_area"]
    assert again.first.map_11point == metrics["voc/map_11point"]
    assert again.voc[0.75].map_area == metrics["voc/map_area_iou75"]
    before = path.read_bytes()
    evaluate(samples[:2], save_to=str(path))
    assert path.read_bytes() != before
    assert os.listdir(path.parent) == ["detections.npz"]


@pytest.mark.parametrize(
    ("metas", "ids", "paths"),
    [
        ([{"img_id": 0}, {"img_id": 1}], ("0", "1"), None),  # an id of 0 is an id
        ([{"img_id": "a", "img_path": "x/a.jpg"}, {"img_id": "b"}], ("a", "b"), None),
        # Two folders with the same names.
        (
            [{"img_id": "a", "img_path": "x/a.jpg"}, {"img_id": "a", "img_path": "y/a.jpg"}],
            ("x/a.jpg", "y/a.jpg"),
            ("x/a.jpg", "y/a.jpg"),
        ),
        ([{"img_id": "a"}, {"img_id": "a (2)"}, {"img_id": "a"}], ("a", "a (2)", "a (3)"), None),
        ([{}, {}], ("number 0", "number 1"), None),
    ],
)
def test_images_have_unique_names_whatever_the_samples_say(metas, ids, paths):
    samples = [data_sample(truth=[(0, BOX)], **{"img_id": None} | meta) for meta in metas]
    data = to_evaluation_set([read(s, index) for index, s in enumerate(samples)], CLASSES)
    assert data.image_ids == ids
    assert data.image_paths == paths


def test_sizes_are_unknown_unless_all_are_known():
    samples = [data_sample(truth=[(0, BOX)]), data_sample(truth=[(0, BOX)])]
    samples[0].set_metainfo({"ori_shape": (10, 20)})
    samples[1].set_metainfo({"ori_shape": None})
    results = [read(sample) for sample in samples]
    assert to_evaluation_set(results, CLASSES).image_sizes is None
    np.testing.assert_array_equal(to_evaluation_set(results[:1], CLASSES).image_sizes, [[20, 10]])


def test_concatenated_data_sets(log):
    """MMDetection's ConcatDataset of VOC2007 and VOC2012 has a list of two metainfos, which differ in the year."""
    samples = random_samples(3)
    metas = [{"classes": CLASSES, "dataset_type": name} for name in ("VOC2007", "VOC2012")]

    def through(meta):
        evaluator = Evaluator([VOCDevkitMetric()])
        evaluator.dataset_meta = meta
        for sample in samples:
            evaluator.process(data_samples=[sample], data_batch=None)
        return evaluator.evaluate(3)

    assert json.dumps(through(metas)) == json.dumps(through(metas[0])) == json.dumps(evaluate(samples))
    with pytest.raises(ValueError, match=r"different classes: \['cat', 'dog', 'owl'\] and \['cat'\]"):
        through([metas[0], {"classes": ["cat"]}])
    for absent in ([], [metas[0], {}], None):
        with pytest.raises(ValueError, match=r"needs dataset_meta\['classes'\]"):
            through(absent)
