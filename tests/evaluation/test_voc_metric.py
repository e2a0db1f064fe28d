"""The mmengine metric: from MMDetection's data samples to the numbers of ``voc_ap``."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData

from sosr_det.evaluation import voc_metric
from sosr_det.evaluation.formats.devkit import read_detections
from sosr_det.evaluation.formats.ground_truth import read_ground_truth
from sosr_det.evaluation.formats.voc_folder import read_image_set
from sosr_det.evaluation.voc_ap import evaluate_voc
from sosr_det.evaluation.voc_metric import VOCDevkitMetric, format_table

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
    """One of two processes, with every second sample, the first ones padded as mmengine's sampler does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    samples = random_samples(9)
    padded = [*samples, samples[0]]
    metric = VOCDevkitMetric(collect_dir=f"{folder}/collect")
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, [sample.to_dict() for sample in padded[rank::2]])
    results[rank] = metric.evaluate(len(samples))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_result_of_one(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.start_processes(
            _evaluate_rank, args=(str(tmp_path), results), nprocs=2, start_method="spawn"
        )
        first, second = results[0], results[1]
    expected = evaluate(random_samples(9))
    assert first == second == expected
    assert 0 < expected["voc/map_area"] < 1
    assert expected["voc/num_images"] == 9


def test_zero_based_samples_give_the_result_of_the_one_based_files(unpacked, log):
    """A part of VOC2007 test through data samples as MMDetection gives them: float32, 0-based."""
    folder = unpacked("yolov2-voc07-test")
    voc2007 = unpacked("voc0712-annotations") / "VOCdevkit" / "VOC2007"
    all_ids = read_image_set(voc2007 / "ImageSets" / "Main" / "test.txt")
    classes = ("car", "chair", "person")
    detections = read_detections(folder, all_ids, classes)
    num_images = 400
    ground_truth = read_ground_truth(
        voc2007 / "Annotations", all_ids[:num_images], classes, unknown_classes="ignore"
    )
    for name, given in detections.items():
        kept = given.image_index < num_images
        detections[name] = type(given)(given.image_index[kept], given.boxes[kept], given.scores[kept])
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
