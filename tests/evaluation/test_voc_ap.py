"""VOC average precision against a slow transcription of the rules, hand-worked cases and random sets."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sosr_det.evaluation import matching
from sosr_det.evaluation.voc_ap import Detections, GroundTruth, evaluate_class, evaluate_voc

from .slow_voc import random_rows, reference_ap


def as_ground_truth(rows):
    return GroundTruth([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def as_detections(rows):
    return Detections([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def evaluate(ground_truth, detections, **options):
    return evaluate_class(as_ground_truth(ground_truth), as_detections(detections), **options)


def outcomes(result):
    return result.num_true_positives, result.num_false_positives, result.num_ignored


BOX = (1, 1, 10, 10)
FAR = (101, 101, 110, 110)

# --- hand-worked cases


def test_perfect_detections_give_exactly_one():
    ground_truth = [(i, BOX, False) for i in range(7)]
    result = evaluate(ground_truth, [(i, BOX, 0.1 * i) for i in range(7)])
    assert (result.ap_11point, result.ap_area) == (1.0, 1.0)


def test_three_of_ten_reach_the_recall_level_of_three_tenths():
    ground_truth = [(i, BOX, False) for i in range(10)]
    detections = [(i, BOX, 0.9) for i in range(3)]
    assert evaluate(ground_truth, detections).ap_11point == pytest.approx(4 / 11, abs=1e-15)
    # 0.3 < np.arange(0, 1.1, 0.1)[3]: the ports see only the levels 0, 0.1 and 0.2.
    ports = evaluate(ground_truth, detections, recall_thresholds="arange")
    assert ports.ap_11point == pytest.approx(3 / 11, abs=1e-15)
    assert evaluate(ground_truth, detections).ap_area == ports.ap_area == pytest.approx(0.3, abs=1e-15)


def test_both_definitions_by_hand():
    # 4 boxes; by score: hit, miss, hit. Precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4.
    ground_truth = [(i, BOX, False) for i in range(4)]
    result = evaluate(ground_truth, [(0, BOX, 0.9), (0, FAR, 0.8), (1, BOX, 0.7)])
    # Levels 0, .1, .2 → 1; .3, .4, .5 → 2/3.
    assert result.ap_11point == pytest.approx((3 + 3 * 2 / 3) / 11, abs=1e-15)
    assert result.ap_area == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3, abs=1e-15)
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(result.recall, [1 / 4, 1 / 4, 2 / 4])
    np.testing.assert_array_equal(result.scores, [0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("detected", "is_match"),
    [
        ((1, 1, 10, 5), False),  # 50 of 100 pixels: IoU exactly 0.5
        ((1, 1, 10, 6), True),  # 60 of 100
        ((1, 1, 20, 10), False),  # 100 of 200
        ((1, 1, 19, 10), True),  # 100 of 190
    ],
)
def test_iou_of_exactly_the_threshold_is_no_match(detected, is_match):
    result = evaluate([(0, BOX, False)], [(0, detected, 0.5)])
    assert outcomes(result) == ((1, 0, 0) if is_match else (0, 1, 0))


@pytest.mark.parametrize(
    ("truth", "detected", "is_match"),
    [
        # 3x1 and 2x1 pixels, 2 shared: 2/3. Without the +1 all areas are 0.
        ((5, 5, 7, 5), (5, 5, 6, 5), True),
        # 4x4 and 2x4 pixels: IoU 8/16, no match. Without the +1 3x3 and 1x3: 3/9.
        ((1, 1, 4, 4), (1, 1, 2, 4), False),
        # 3x3 and 2x3 pixels: 6/9, a match. Without the +1 2x2 and 1x2: 2/4.
        ((1, 1, 3, 3), (1, 1, 2, 3), True),
        # 10 wide, shifted by 3: 70/130 > 0.5. Without the +1 9 wide: 54/108.
        ((1, 1, 10, 10), (4, 1, 13, 10), True),
        # +1 in the boxes but not in the intersection would miss this one: 2 of 3 columns.
        ((1, 1, 3, 1), (1, 1, 2, 1), True),
    ],
)
def test_widths_count_both_edge_pixels(truth, detected, is_match):
    assert outcomes(evaluate([(0, truth, False)], [(0, detected, 0.5)])) == (
        (1, 0, 0) if is_match else (0, 1, 0)
    )


def test_iou_value():
    iou = matching.pixel_inclusive_iou(np.array([[1.0, 1, 10, 10]]), np.array([[6.0, 6, 15, 15]]))
    assert iou[0] == 25 / 175
    touching, apart = matching.pixel_inclusive_iou(
        np.array([[1.0, 1, 10, 10], [1, 1, 10, 10]]), np.array([[10.0, 1, 20, 10], [11, 1, 20, 10]])
    )
    assert touching == 10 / (100 + 110 - 10)  # the shared column of pixels
    assert apart == 0


def test_second_detection_of_a_box_is_a_false_positive():
    result = evaluate([(0, BOX, False)], [(0, BOX, 0.6), (0, BOX, 0.9)])
    assert outcomes(result) == (1, 1, 0)
    np.testing.assert_array_equal(result.precision, [1, 1 / 2])


def test_only_the_box_of_highest_iou_is_tried():
    # Both ground truths overlap both detections by more than half, the first one most: no second choice.
    ground_truth = [(0, (1, 1, 10, 10), False), (0, (1, 1, 10, 12), False)]
    detections = [(0, (1, 1, 10, 10), 0.9), (0, (1, 1, 10, 10), 0.8)]
    assert outcomes(evaluate(ground_truth, detections)) == (1, 1, 0)


def test_of_equal_ious_the_first_ground_truth_counts():
    # Equal boxes, the first one difficult: the detection is ignored; the other way round it is a hit.
    difficult, plain = (0, BOX, True), (0, BOX, False)
    assert outcomes(evaluate([difficult, plain], [(0, BOX, 0.9)])) == (0, 0, 1)
    assert outcomes(evaluate([plain, difficult], [(0, BOX, 0.9)])) == (1, 0, 0)


def test_difficult_counts_neither_way():
    ground_truth = [(0, BOX, True), (0, FAR, False)]
    result = evaluate(ground_truth, [(0, BOX, 0.9), (0, BOX, 0.8), (0, FAR, 0.7)])
    assert outcomes(result) == (1, 0, 2)
    assert (result.num_ground_truth, result.num_difficult, result.num_detections) == (1, 1, 3)
    assert (result.ap_11point, result.ap_area) == (1.0, 1.0)
    assert result.precision.shape == result.recall.shape == result.scores.shape == (1,)


def test_equal_scores_keep_the_given_order():
    ground_truth = [(0, BOX, False)]
    assert evaluate(ground_truth, [(0, BOX, 0.5), (0, FAR, 0.5)]).ap_area == 1.0
    assert evaluate(ground_truth, [(0, FAR, 0.5), (0, BOX, 0.5)]).ap_area == 0.5
    # Long enough for numpy's default sort to be an unstable one.
    many = [(0, FAR, 0.5)] * 1000 + [(0, BOX, 0.5)] + [(0, FAR, 0.5)] * 1000
    assert evaluate(ground_truth, many).ap_area == pytest.approx(1 / 1001, abs=1e-15)


def test_boxes_in_other_images_do_not_match():
    assert outcomes(evaluate([(0, BOX, False), (5, BOX, False)], [(3, BOX, 0.9), (7, BOX, 0.8)])) == (0, 2, 0)


def test_inverted_detections_are_false_positives():
    # Without a guard the union could be 0 or negative.
    detections = [(0, (10, 10, 1, 1), 0.9), (0, (5, 1, 3, 10), 0.8), (0, BOX, 0.7)]
    result = evaluate([(0, BOX, False)], detections)
    assert outcomes(result) == (1, 2, 0)
    np.testing.assert_array_equal(result.precision, [0, 0, 1 / 3])


def test_no_detections():
    result = evaluate_class(as_ground_truth([(0, BOX, False)]), Detections.empty())
    assert (result.ap_11point, result.ap_area, result.num_detections) == (0.0, 0.0, 0)


def test_only_ignored_detections():
    result = evaluate([(0, BOX, True), (0, FAR, False)], [(0, BOX, 0.9)])
    assert (result.ap_11point, result.ap_area) == (0.0, 0.0)


def test_adding_a_constant_to_all_coordinates_changes_nothing():
    ground_truth, detections = random_rows(np.random.default_rng(3), 40)
    shifted_gt = [(i, tuple(v - 1 for v in b), d) for i, b, d in ground_truth]
    shifted_det = [(i, tuple(v - 1 for v in b), s) for i, b, s in detections]
    assert evaluate(ground_truth, detections).ap_area == evaluate(shifted_gt, shifted_det).ap_area


# --- against the reference


def assert_equals_reference(ground_truth, detections, threshold=Fraction(1, 2)):
    expected = reference_ap(ground_truth, detections, threshold)
    result = evaluate(ground_truth, detections, iou_threshold=float(threshold))
    if expected is None:
        assert math.isnan(result.ap_11point)
        assert math.isnan(result.ap_area)
        return
    assert result.ap_11point == pytest.approx(float(expected[0]), abs=1e-12)
    assert result.ap_area == pytest.approx(float(expected[1]), abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_random_sets_equal_the_reference(seed):
    rng = np.random.default_rng(seed)
    ground_truth, detections = random_rows(rng, int(rng.integers(1, 50)))
    assert_equals_reference(
        ground_truth, detections, [Fraction(1, 2), Fraction(1, 4), Fraction(3, 4)][seed % 3]
    )


coordinates = st.integers(1, 6)
boxes = st.tuples(coordinates, coordinates, st.integers(0, 4), st.integers(0, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
images = st.integers(0, 2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(images, boxes, st.booleans()), max_size=12),
    st.lists(st.tuples(images, boxes, st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=20),
)
def test_any_set_equals_the_reference(ground_truth, detections):
    assert_equals_reference(ground_truth, detections)


def test_chunks_and_blocks_do_not_change_the_result(monkeypatch):
    ground_truth, detections = random_rows(np.random.default_rng(11), 60)
    whole = evaluate(ground_truth, detections)
    for pairs, rows in ((1, 1000), (7, 13), (50, 1), (1000, 40)):
        monkeypatch.setattr(matching, "_PAIRS_PER_CHUNK", pairs)
        monkeypatch.setattr(matching, "_ROWS_PER_BLOCK", rows)
        chunked = evaluate(ground_truth, detections)
        assert chunked.ap_area == whole.ap_area
        np.testing.assert_array_equal(chunked.precision, whole.precision)


def test_arange_equals_the_ports_loop():
    """The 11-point loop of the Python ports, on curves that hit the levels exactly."""
    for num_gt in (10, 20, 30, 480):
        ground_truth = [(i, BOX, False) for i in range(num_gt)]
        rng = np.random.default_rng(num_gt)
        detections = [(i, BOX if rng.random() < 0.8 else FAR, 1 - i / num_gt) for i in range(num_gt)]
        result = evaluate(ground_truth, detections, recall_thresholds="arange")
        expected = 0.0
        for t in np.arange(0.0, 1.1, 0.1):
            reached = result.precision[result.recall >= t]
            expected += (reached.max() if len(reached) else 0.0) / 11.0
        assert result.ap_11point == pytest.approx(expected, abs=1e-15)


# --- several classes


def test_class_without_ground_truth_is_named_and_left_out():
    ground_truth = {
        "cat": as_ground_truth([(0, BOX, False)]),
        "dog": GroundTruth.empty(),
        "owl": as_ground_truth([(0, FAR, True)]),
        "cow": as_ground_truth([(1, BOX, False)]),
    }
    detections = {
        "cat": as_detections([(0, BOX, 0.9)]),
        "dog": as_detections([(0, BOX, 0.9)]),
        "owl": Detections.empty(),
        "cow": Detections.empty(),
    }
    result = evaluate_voc(ground_truth, detections, ["cat", "dog", "owl", "cow"])
    assert result.classes_without_ground_truth == ("dog", "owl")
    assert math.isnan(result.per_class["dog"].ap_11point)
    assert math.isnan(result.per_class["owl"].ap_area)
    assert (result.map_11point, result.map_area) == (0.5, 0.5)
    assert list(result.per_class) == ["cat", "dog", "owl", "cow"]
    assert (result.iou_threshold, result.recall_thresholds) == (0.5, "exact")


def test_no_ground_truth_at_all_gives_nan_means():
    result = evaluate_voc({"a": GroundTruth.empty()}, {"a": Detections.empty()}, ["a"])
    assert math.isnan(result.map_11point)
    assert math.isnan(result.map_area)


def test_only_numpy_is_needed():
    code = (
        "import sys, sosr_det.evaluation.all_metrics, sosr_det.evaluation.saved_detections; "
        "heavy = {'torch', 'mmengine', 'mmcv', 'mmdet', 'faster_coco_eval', 'rich'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- refusals


def gt(**changes):
    fields = {"image_index": [0, 3], "boxes": [BOX, FAR], "difficult": [False, False]} | changes
    return GroundTruth(**fields)


def det(**changes):
    fields = {"image_index": [0, 3], "boxes": [BOX, FAR], "scores": [0.5, 0.25]} | changes
    return Detections(**fields)


@pytest.mark.parametrize(
    ("ground_truth", "detections", "message"),
    [
        (gt(), det(scores=[0.5, math.nan]), r"class 'cat': detections: score nan in image 3"),
        (gt(), det(scores=[math.inf, 0.5]), r"score inf in image 0"),
        (
            gt(),
            det(boxes=[BOX, (1, 2, math.nan, 4)]),
            r"class 'cat': detections: box \[1.0, 2.0, nan, 4.0\] in image 3",
        ),
        (gt(boxes=[(1, 1, math.inf, 4), FAR]), det(), r"class 'cat': ground truth: box .*inf.* in image 0"),
        (
            gt(boxes=[BOX, (9, 1, 8, 4)]),
            det(),
            r"ground truth: box \[9.0, 1.0, 8.0, 4.0\] in image 3 has x2 < x1",
        ),
        (gt(), det(image_index=[0, -1]), r"image_index must be in 0..4, got -1"),
        (gt(), det(image_index=[0, 5]), r"image_index must be in 0..4, got 5"),
        (gt(), det(image_index=[0.0, 1.0]), r"must hold integers, got float64"),
        (gt(), det(scores=[0.5]), r"scores must have shape \[2\], one per box, got \[1\]"),
        (gt(), det(boxes=[BOX[:3], FAR[:3]]), r"boxes must have shape \[N, 4\], got \[2, 3\]"),
        (gt(difficult=[False]), det(), r"difficult must have shape \[2\], one per box, got \[1\]"),
        (gt(image_index=[[0, 1]]), det(), r"image_index must have shape \[2\], one per box, got \[1, 2\]"),
    ],
)
def test_unusable_input_is_named(ground_truth, detections, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc({"cat": ground_truth}, {"cat": detections}, ["cat"], num_images=5)


def test_difficult_must_be_boolean():
    with pytest.raises(ValueError, match=r"difficult must hold booleans.*\[2\]"):
        gt(difficult=[0, 2])


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_unusable_threshold(threshold):
    with pytest.raises(ValueError, match="iou_threshold must be"):
        evaluate_class(gt(), det(), iou_threshold=threshold)


def test_unusable_recall_thresholds():
    with pytest.raises(ValueError, match=r"recall_thresholds must be one of .* got 'linspace'"):
        evaluate_class(gt(), det(), recall_thresholds="linspace")


def test_class_names_must_agree():
    with pytest.raises(ValueError, match=r"detections has classes that are not in class_names: \['cta'\]"):
        evaluate_voc({"cat": gt()}, {"cta": det()}, ["cat"])
    with pytest.raises(ValueError, match=r"detections has no entry for \['dog'\]"):
        evaluate_voc({"cat": gt(), "dog": gt()}, {"cat": det()}, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"lists a class twice: \['cat'\]"):
        evaluate_voc({"cat": gt()}, {"cat": det()}, ["cat", "cat"])
    for names in ([], "cat"):
        with pytest.raises(ValueError, match="class_names must be a non-empty sequence"):
            evaluate_voc({"cat": gt()}, {"cat": det()}, names)
