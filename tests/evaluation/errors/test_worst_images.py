"""Operating points, the ranking of images, and the whole analysis as one document."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors import analyze_errors
from sosr_det.evaluation.errors.operating_point import best_f1
from sosr_det.evaluation.errors.outcomes import KINDS
from sosr_det.evaluation.errors.worst_images import describe
from sosr_det.evaluation.voc_ap import evaluate_voc


def box(x, width=10):
    return (x, 0, x + width - 1, 9)


def make_set(truth, found, num_images, classes=("cat", "dog")):
    def columns(rows, name):
        rows = [row[1:] for row in rows if row[0] == name]
        return [r[0] for r in rows], np.array([r[1] for r in rows]).reshape(-1, 4), [r[2] for r in rows]

    return EvaluationSet(
        classes,
        [f"im{i}" for i in range(num_images)],
        {name: GroundTruth(*columns(truth, name)) for name in classes},
        {name: Detections(*columns(found, name)) for name in classes},
    )


def slow_best_f1(scores, right, num):
    best = (-1.0, 0.0)
    for threshold in set(scores):
        kept = [r for s, r in zip(scores, right, strict=True) if s >= threshold]
        best = max(best, (2 * sum(kept) / (len(kept) + num), threshold))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_agrees_with_loops(seed):
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.integers(0, 12, 60) / 12)  # many equal ones, kept or dropped together
    right = rng.random(60) < 0.2 + 0.6 * scores
    point = best_f1(scores, right, int(right.sum()) + 5)
    f1, threshold = slow_best_f1(scores.tolist(), right.tolist(), int(right.sum()) + 5)
    assert (point.f1, point.threshold) == pytest.approx((f1, threshold), abs=1e-15)
    kept = right[scores >= point.threshold]
    assert point.precision == kept.sum() / len(kept)
    assert point.recall == kept.sum() / (right.sum() + 5)


def test_of_equal_f1_the_higher_threshold():
    # One of two found: 2/3 after the first; both found by the fourth: 4/6.
    point = best_f1(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 0, 1], bool), 2)
    assert point.threshold == 0.9


@pytest.mark.parametrize(("right", "num"), [([], 3), ([False, False], 3), ([False], 0)])
def test_no_operating_point(right, num):
    point = best_f1(np.linspace(1, 0.5, len(right)), np.array(right, bool), num)
    assert all(math.isnan(value) for value in (point.threshold, point.f1, point.precision, point.recall))


def test_worst_images_by_hand():
    truth = [
        ("cat", 0, box(0), False),
        ("cat", 1, box(0), False),
        ("cat", 1, box(100), False),
        ("cat", 2, box(0), True),
        ("dog", 3, box(0), False),
        ("dog", 3, box(100), False),
    ]
    found = [
        ("cat", 0, box(0), 0.9),
        ("cat", 1, box(0), 0.8),
        ("cat", 1, box(100, 30), 0.85),  # loose: a false positive, and the object is missed but noticed
        ("cat", 2, box(0), 0.95),  # ignored
        ("cat", 4, box(0), 0.1),  # background, but too unsure to count
        ("dog", 3, box(0), 0.3),
    ]
    analysis = analyze_errors(make_set(truth, found, 5))
    assert analysis.points["cat"].threshold == 0.8
    assert analysis.points["dog"].threshold == 0.3
    assert [(each.image, each.num_errors) for each in analysis.worst] == [(1, 2), (3, 1)]
    first = analysis.worst[0]
    assert (first.true_positives, first.false_positives, first.missed, first.noticed) == (
        (1,),
        (2,),
        (2,),
        (2,),
    )
    assert {kind: int(n.sum()) for kind, n in analysis.counts.items()} == {
        **dict.fromkeys(KINDS, 0), "localisation": 1, "background": 1, "missed": 1,
    }  # fmt: skip
    assert analysis.confident_counts["background"].sum() == 0
    document = analysis.to_dict()
    assert document["worst_images"][0] == {
        "image": "im1",
        "errors": 2,
        "true_positives": 1,
        "what": [
            {
                "kind": "localisation",
                "class": "cat",
                "score": 0.85,
                "box": [100, 0, 129, 9],
                "object": {"class": "cat", "box": [100, 0, 109, 9], "iou": 1 / 3, "difficult": False},
            },
            {"kind": "missed", "class": "cat", "box": [100, 0, 109, 9], "noticed": True},
        ],
        "more": 0,
    }


def test_ties_go_to_fewer_finds_then_to_the_order_and_the_limit_holds():
    truth = [("cat", i, box(0), False) for i in (0, 1, 2, 3)] + [("cat", 0, box(100), False)]
    found = [("cat", 0, box(100), 0.9), ("cat", 3, box(0), 0.8)]
    data = make_set(truth, found, 5)
    assert [each.image for each in analyze_errors(data).worst] == [1, 2, 0]
    assert [each.image for each in analyze_errors(data, max_worst_images=2).worst] == [1, 2]
    assert analyze_errors(data, max_worst_images=0).worst == []


def test_of_many_errors_in_an_image_the_best_scores_are_described():
    """Else a detector with equal scores writes a report of a hundred megabytes."""
    truth = [("cat", 0, box(20 * i), False) for i in range(-300, 0)] + [("dog", 0, box(9000), False)]
    found = [("cat", 0, box(20 * i), 1.0) for i in range(-300, -50)]  # 250 of 300 found
    found += [("dog", 0, box(9000), 0.5)] + [("dog", 0, box(20 * i), 0.5 + i / 1000) for i in range(230)]
    analysis = analyze_errors(make_set(truth, found, 1))
    (worst,) = analysis.worst
    entries = describe(analysis.outcomes, worst)
    wrong = [each["score"] for each in entries if each["kind"] != "missed"]
    assert len(worst.false_positives) == 230
    assert wrong == sorted((each[3] for each in found[-200:]), reverse=True)
    assert len(entries) == 250
    (entry,) = analysis.to_dict()["worst_images"]
    assert (entry["errors"], len(entry["what"]), entry["more"]) == (280, 250, 30)
    found = found[:10]
    analysis = analyze_errors(make_set(truth, found, 1))
    (entry,) = analysis.to_dict()["worst_images"]
    assert (entry["errors"], len(entry["what"]), entry["more"]) == (291, 200, 91)
    assert analysis.to_dict()["num_images"] == 1


def test_a_class_with_nothing_to_find_borrows_the_threshold_of_all():
    truth = [("cat", 0, box(0), False)]
    found = [("cat", 0, box(0), 0.5), ("dog", 0, box(50), 0.6), ("dog", 0, box(70), 0.4)]
    analysis = analyze_errors(make_set(truth, found, 1))
    assert math.isnan(analysis.points["dog"].threshold)
    assert analysis.pooled_point.threshold == 0.5
    assert analysis.confident.tolist() == [True, True, False]
    # Nothing found at all: nothing is confident, objects are missed all the same.
    analysis = analyze_errors(make_set(truth, [("dog", 0, box(50), 0.6)], 1))
    assert not analysis.confident.any()
    assert [(each.image, each.num_errors) for each in analysis.worst] == [(0, 1)]


def test_the_document_is_json_and_agrees_with_the_evaluation():
    truth = [("cat", 0, box(0), False), ("dog", 1, box(0), True), ("cat", 1, box(30), False)]
    found = [("cat", 0, box(0), 1 / 3), ("dog", 1, box(0), 0.6), ("dog", 1, box(30), 0.7)]
    data = make_set(truth, found, 2)
    document = analyze_errors(data).to_dict()
    again = json.loads(json.dumps(document, allow_nan=False))
    voc = evaluate_voc(data.ground_truth, data.detections, data.class_names)
    assert again["all_classes"]["map_area"] == voc.map_area == 0.5
    assert again["classes"]["cat"]["ap_11point"] == voc.per_class["cat"].ap_11point
    assert again["classes"]["cat"]["best_f1"]["threshold"] == 1 / 3
    assert again["classes"]["dog"]["ap_area"] is None
    assert again["classes"]["dog"]["precision_at_recall_0_to_1_by_0.01"] is None
    assert again["classes_without_ground_truth"] == ["dog"]
    curve = again["classes"]["cat"]["precision_at_recall_0_to_1_by_0.01"]
    assert curve == [1.0] * 51 + [0.0] * 50
    assert again["confusions_at_threshold"] == [{"detected_as": "dog", "object": "cat", "detections": 1}]
    assert again["classes"]["dog"]["errors"]["classification"] == 1
    assert again["all_classes"]["map_area_gain"]["classification"] == 0.5


def test_unusable_data_is_refused_with_its_class():
    data = make_set([("cat", 0, box(0), False)], [("dog", 7, box(0), 0.5)], 1)
    with pytest.raises(ValueError, match=r"class 'dog'.*image_index must be in 0..0, got 7"):
        analyze_errors(data)


def test_no_images_at_all():
    document = analyze_errors(make_set([], [], 0)).to_dict()
    assert document["worst_images"] == []
    assert document["all_classes"]["map_area"] is None
