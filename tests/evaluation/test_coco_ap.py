"""COCO AP: hand-worked cases, and pycocotools fed by its own, separate translation of the same boxes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math

import numpy as np
import pytest

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.coco_ap import IOU_THRESHOLDS, evaluate_coco

STATISTICS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
BOX = (1, 1, 10, 10)
FAR = (101, 101, 110, 110)


def pycocotools_statistics(data, difficult_flag="iscrowd", categories=None):
    """The reference: all classes at once, box by box, and its own summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for category, name in enumerate(data.class_names, 1):
        for image, (x1, y1, x2, y2), difficult in zip(
            data.ground_truth[name].image_index,
            data.ground_truth[name].boxes,
            data.ground_truth[name].difficult,
            strict=True,
        ):
            width, height = float(x2 - x1 + 1), float(y2 - y1 + 1)
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": int(image),
                    "category_id": category,
                    "bbox": [float(x1), float(y1), width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
            truth[-1][difficult_flag] = int(difficult)
        for image, (x1, y1, x2, y2), score in zip(
            data.detections[name].image_index,
            data.detections[name].boxes,
            data.detections[name].scores,
            strict=True,
        ):
            found.append(
                {
                    "image_id": int(image),
                    "category_id": category,
                    "bbox": [float(x1), float(y1), float(x2 - x1 + 1), float(y2 - y1 + 1)],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": index} for index in range(data.num_images)],
            "categories": [{"id": index} for index in range(1, len(data.class_names) + 1)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(found), "bbox")
        if categories:
            evaluator.params.catIds = categories
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(STATISTICS, evaluator.stats, strict=True))


def make_set(truth, found, num_images=2, name="cat"):
    """Rows ``(image, box, difficult)`` and ``(image, box, score)`` of one class."""
    return EvaluationSet(
        [name],
        [str(index) for index in range(num_images)],
        {name: GroundTruth([r[0] for r in truth], [r[1] for r in truth], [r[2] for r in truth])},
        {name: Detections([r[0] for r in found], [r[1] for r in found], [r[2] for r in found])},
    )


def evaluate(truth, found, num_images=2):
    return evaluate_coco(make_set(truth, found, num_images))


def random_set(seed, num_images=25, classes=("a", "b", "c")):
    """Boxes of all sizes, with near and equal ones, ties, and images with very many detections."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.integers(0, 300, (count, 2))
        return np.concatenate(
            [corner, corner + rng.integers(0, rng.choice([20, 90, 300], (count, 1)), (count, 2))], 1
        )

    ground_truth, detections = {}, {}
    for name in classes:
        count = 60
        truth = GroundTruth(rng.integers(num_images, size=count), boxes(count), rng.random(count) < 0.2)
        near = rng.integers(count, size=250)
        image = np.concatenate(
            [truth.image_index[near], rng.integers(num_images, size=100), np.zeros(130, int)]
        )
        where = np.concatenate([truth.boxes[near] + rng.integers(-3, 4, (250, 4)), boxes(100), boxes(130)])
        order = rng.permutation(len(image))
        scores = rng.integers(1, 200, len(image)) / 200
        where[:, 2:] = np.maximum(where[:, 2:], where[:, :2])
        ground_truth[name] = truth
        detections[name] = Detections(image[order], where[order], scores)
    return EvaluationSet(classes, [str(i) for i in range(num_images)], ground_truth, detections)


@pytest.mark.parametrize("seed", range(4))
def test_random_sets_equal_pycocotools(seed):
    data = random_set(seed)
    result = evaluate_coco(data)
    expected = pycocotools_statistics(data)
    for name in STATISTICS:
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-12), name
    assert 0.05 < result.ap < result.ap50 < 1
    assert evaluate_coco(data, "pycocotools").ap == pytest.approx(result.ap, abs=1e-12)
    of_second = pycocotools_statistics(data, categories=[2])
    for name in STATISTICS:
        assert getattr(result.per_class["b"], name) == pytest.approx(of_second[name], abs=1e-12), name


def test_real_detections_equal_pycocotools(yolov2):
    """Three classes in the first 600 images of VOC2007 test."""
    data, _ = yolov2
    classes, num_images = ("car", "person", "pottedplant"), 600

    def part(boxes, other):
        kept = boxes.image_index < num_images
        return type(boxes)(boxes.image_index[kept], boxes.boxes[kept], getattr(boxes, other)[kept])

    small = EvaluationSet(
        classes,
        data.image_ids[:num_images],
        {name: part(data.ground_truth[name], "difficult") for name in classes},
        {name: part(data.detections[name], "scores") for name in classes},
    )
    result, expected = evaluate_coco(small), pycocotools_statistics(small)
    for name in STATISTICS:
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-12), name
    # The flag of the COCO-style files of VOC has no effect there: difficult objects count as missed.
    assert pycocotools_statistics(small, difficult_flag="ignore")["ap50"] < result.ap50 - 0.05


def test_thresholds_are_cocos():
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(IOU_THRESHOLDS, Params("bbox").iouThrs, atol=1e-15)


def test_ap_is_the_mean_over_ten_thresholds():
    # 62 of 100 pixels: right at 0.50, 0.55 and 0.60.
    result = evaluate([(0, (1, 1, 100, 1), False)], [(0, (1, 1, 62, 1), 0.9)])
    assert result.ap == pytest.approx(0.3, abs=1e-15)
    assert (result.ap50, result.ap75) == (1.0, 0.0)
    assert result.ar1 == pytest.approx(0.3, abs=1e-15)


def test_overlap_is_pixel_inclusive_and_may_equal_the_threshold():
    # 10 x 5 of 10 x 10 pixels: exactly 0.5. Without the + 1: 9 x 4 of 9 x 9.
    assert evaluate([(0, BOX, False)], [(0, (1, 1, 10, 5), 0.9)]).ap50 == 1.0
    assert evaluate([(0, BOX, False)], [(0, (1, 1, 10, 4), 0.9)]).ap50 == 0.0


@pytest.mark.parametrize(
    ("side", "kinds"),
    [
        (31, {"small"}),
        (32, {"small", "medium"}),
        (33, {"medium"}),
        (96, {"medium", "large"}),
        (97, {"large"}),
    ],
)
def test_sizes_count_both_edge_pixels(side, kinds):
    box = (1, 1, side, side)
    result = evaluate([(0, box, False)], [(0, box, 0.9)])
    for kind in ("small", "medium", "large"):
        expected = 1.0 if kind in kinds else math.nan
        for value in (getattr(result, f"ap_{kind}"), getattr(result, f"ar_{kind}")):
            assert value == pytest.approx(expected, nan_ok=True)


def test_any_number_of_detections_may_fall_on_a_difficult_object():
    truth = [(0, BOX, True), (0, FAR, False)]
    hit = (0, FAR, 0.5)
    assert evaluate(truth, [(0, BOX, 0.9), (0, BOX, 0.8), hit]).ap == 1.0
    # Not so if it were not difficult: two false positives before the hit, or one and a miss.
    assert evaluate([(0, FAR, False)], [(0, BOX, 0.9), (0, BOX, 0.8), hit]).ap == pytest.approx(1 / 3)
    assert evaluate([(0, BOX, False), (0, FAR, False)], [(0, BOX, 0.9), (0, BOX, 0.8), hit]).ap < 1
    # What counts there is the share of the detection: a small one inside is ignored, one that sticks out is not.
    assert evaluate(truth, [(0, (1, 1, 2, 2), 0.9), hit]).ap == 1.0
    assert evaluate(truth, [(0, (1, 1, 30, 10), 0.9), hit]).ap50 == pytest.approx(1 / 2)


def test_a_hundred_detections_per_image_and_class():
    wrong = [(0, FAR, 0.9)] * 99
    right = [(0, BOX, 0.1)]
    result = evaluate([(0, BOX, False)], wrong + right)
    assert (result.ap50, result.num_beyond_limit) == (pytest.approx(1 / 100), 0)
    assert (result.ar1, result.ar10, result.ar100) == (0.0, 0.0, 1.0)
    result = evaluate([(0, BOX, False)], [*wrong, (0, FAR, 0.9), *right])
    assert (result.ap50, result.num_beyond_limit) == (0.0, 1)
    # The limit is per image.
    result = evaluate([(0, BOX, False)], [*wrong, (1, FAR, 0.9), *right])
    assert (result.ap50, result.num_beyond_limit) == (pytest.approx(1 / 101), 0)


@pytest.mark.parametrize("inverted", [(10, 10, 1, 1), (10, 1, 1, 10), (10, 1, 9, 10)])
def test_detections_that_cover_nothing_are_false_positives(inverted):
    result = evaluate([(0, BOX, False)], [(0, inverted, 0.9), (0, BOX, 0.5)])
    assert result.ap == pytest.approx(1 / 2)


def test_images_without_objects_count():
    assert evaluate([(0, BOX, False)], [(1, BOX, 0.9), (0, BOX, 0.5)]).ap == pytest.approx(1 / 2)


def test_what_is_absent_is_nan_and_left_out_of_the_means():
    data = EvaluationSet(
        ["cat", "dog", "owl", "cow"],
        ["1"],
        {
            "cat": GroundTruth([0], [BOX], [False]),
            "dog": GroundTruth([0], [BOX], [True]),
            "owl": GroundTruth.empty(),
            "cow": GroundTruth([0], [FAR], [False]),
        },
        {
            "cat": Detections([0], [BOX], [0.5]),
            "dog": Detections([0], [BOX], [0.5]),
            "owl": Detections([0], [BOX], [0.5]),
            "cow": Detections.empty(),
        },
    )
    result = evaluate_coco(data)
    assert [result.per_class[name].ap for name in ("cat", "cow")] == [1.0, 0.0]
    assert math.isnan(result.per_class["dog"].ap)
    assert math.isnan(result.per_class["owl"].ar100)
    assert result.ap == result.ar100 == 0.5
    assert math.isnan(result.ap_large)
    written = result.to_dict()
    assert written["ap_large"] is None
    assert written["per_class"]["owl"]["ap"] is None
    assert written["per_class"]["cat"]["ap"] == 1.0
    assert json.loads(json.dumps(written, allow_nan=False)) == written

    nothing = evaluate([], [])
    assert math.isnan(nothing.ap)
    assert math.isnan(nothing.ar_small)
    assert nothing.num_beyond_limit == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"class 'cat': detections: score nan in image 1"):
        evaluate([(0, BOX, False)], [(1, BOX, math.nan)])
    with pytest.raises(ValueError, match=r"image_index must be in 0..1, got 7"):
        evaluate([(7, BOX, False)], [])
    with pytest.raises(ValueError, match=r"library must be one of .* got 'coco'"):
        evaluate_coco(make_set([], []), "coco")


def test_nothing_is_printed_or_logged(capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        for library in ("faster-coco-eval", "pycocotools"):
            evaluate_coco(make_set([(0, BOX, False)], [(0, BOX, 0.5)]), library)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
