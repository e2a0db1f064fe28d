"""AP by size and of truncated and difficult objects: by hand, by filtering loops, and against pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors.curve import precision_at_recalls
from sosr_det.evaluation.errors.groups import COCO_SIZES, GROUPS, SIZE_QUARTERS, ap_by_group, mean_of_group
from sosr_det.evaluation.matching import match_detections, pixel_inclusive_area
from sosr_det.evaluation.voc_ap import evaluate_class


def square(x, side):
    return (x, 0, x + side - 1, side - 1)


def one_class(truth, found, truncated=True):
    """``truth`` rows (box, difficult, truncated), ``found`` rows (box, score), all in one image."""
    gt = GroundTruth(
        np.zeros(len(truth), int),
        np.array([row[0] for row in truth]).reshape(-1, 4),
        [row[1] for row in truth],
        [row[2] for row in truth] if truncated else None,
    )
    det = Detections(
        np.zeros(len(found), int), np.array([r[0] for r in found]).reshape(-1, 4), [r[1] for r in found]
    )
    return EvaluationSet(["cat"], ["im"], {"cat": gt}, {"cat": det})


def groups_of(data):
    return {group: classes["cat"] for group, classes in ap_by_group(data).items()}


def test_sizes_by_hand():
    truth = [(square(0, 31), 0, 0), (square(100, 32), 0, 0), (square(200, 95), 0, 0), (square(300, 96), 0, 0)]
    found = [
        (square(500, 20), 0.99),  # small background
        (square(0, 31), 0.9),
        (square(600, 50), 0.85),  # medium background
        (square(200, 95), 0.8),
        (square(300, 96), 0.7),
    ]
    groups = groups_of(one_class(truth, found))
    assert groups["small"].num_ground_truth == 1
    assert groups["small"].ap_area == 0.5  # false, right; the medium false positive is ignored
    assert groups["medium"].num_ground_truth == 2  # 32 x 32 belongs to the medium ones
    assert groups["medium"].ap_area == pytest.approx(0.5 * 0.5)  # false, right, one missed
    assert groups["medium"].recall == 0.5
    assert groups["large"].num_ground_truth == 1  # 96 x 96 belongs to the large ones
    assert groups["large"].ap_area == groups["large"].ap_11point == 1
    for group, limits in COCO_SIZES.items():
        assert groups[group].area_range == limits
    assert [groups[quarter].num_ground_truth for quarter in SIZE_QUARTERS] == [1, 1, 1, 1]
    assert math.isnan(groups["truncated"].ap_area)
    assert groups["truncated"].num_ground_truth == 0
    assert groups["whole"].ap_area == evaluate_class(*sides(one_class(truth, found))).ap_area


def sides(data):
    return data.ground_truth["cat"], data.detections["cat"]


def test_a_match_counts_whatever_its_own_size():
    truth, found = [(square(0, 33), 0, 0)], [(square(0, 30), 0.9)]  # a medium object, found by a small box
    groups = groups_of(one_class(truth, found))
    assert groups["medium"].ap_area == 1
    # A second small box on it is no false positive among the medium: as in COCO, it found nothing.
    assert groups_of(one_class(truth, [*found, (square(0, 29), 0.95)]))["medium"].recall == 1
    twice = one_class(
        [*truth, (square(200, 40), 0, 0)], [*found, (square(0, 29), 0.8), (square(200, 40), 0.5)]
    )
    assert groups_of(twice)["medium"].ap_area == 1
    assert evaluate_class(*sides(twice)).ap_area < 1


def test_truncated_and_difficult_by_hand():
    truth = [
        (square(0, 50), 0, 0),
        (square(100, 50), 0, 1),
        (square(200, 50), 1, 0),
        (square(300, 50), 1, 1),
    ]
    found = [(square(200, 50), 0.9), (square(0, 50), 0.8), (square(600, 50), 0.7), (square(100, 50), 0.6)]
    groups = groups_of(one_class(truth, found))
    assert (groups["whole"].ap_area, groups["whole"].num_ground_truth) == (1, 1)
    assert (groups["truncated"].ap_area, groups["truncated"].num_ground_truth) == (0.5, 1)
    assert (groups["difficult_only"].ap_area, groups["difficult_only"].num_ground_truth) == (0.5, 2)
    assert groups["difficult_counted"].num_ground_truth == 4
    assert groups["difficult_counted"].ap_area == pytest.approx((1 + 1 + 3 / 4) / 4)
    assert groups["difficult_counted"].recall == 3 / 4


def test_unknown_truncation_and_empty_groups_are_nan():
    groups = groups_of(one_class([(square(0, 50), 0, 0)], [], truncated=False))
    for name in ("truncated", "whole", "small", "large", "difficult_only"):
        assert groups[name].num_ground_truth == 0
        assert math.isnan(groups[name].ap_area)
        assert math.isnan(groups[name].recall)
    assert groups["medium"].ap_area == groups["medium"].recall == 0
    nothing = groups_of(one_class([], [(square(0, 50), 0.5)]))
    assert all(math.isnan(nothing[name].ap_11point) for name in GROUPS)


def test_equal_sizes_fall_into_one_quarter():
    groups = groups_of(one_class([(square(100 * i, 40), 0, 0) for i in range(5)], []))
    assert [groups[quarter].num_ground_truth for quarter in SIZE_QUARTERS] == [0, 0, 0, 5]


def test_means_are_over_classes_with_objects():
    groups = groups_of(one_class([(square(0, 50), 0, 0)], [(square(0, 50), 0.5)]))
    mean = mean_of_group({"cat": groups["medium"], "dog": groups["small"]})
    assert (mean.ap_area, mean.recall, mean.num_ground_truth) == (1, 1, 1)
    assert math.isnan(mean_of_group({"dog": groups["small"]}).ap_area)


def random_class(seed, overlapping):
    """Two objects to a place and several detections of each, or one of each and detections of nothing elsewhere."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for cell in range(36):
        corner = np.array([150 * (cell % 6), 150 * (cell // 6)])
        for _ in range(1 + overlapping):
            side = rng.choice([rng.uniform(10, 30), rng.uniform(34, 94), rng.uniform(98, 140)])
            box = np.concatenate([corner, corner + side])
            truth.append((box, rng.random() < 0.2, rng.random() < 0.4))
            for _ in range(rng.integers(0, 3 if overlapping else 2)):
                found.append((box + rng.uniform(-0.25, 0.25, 4) * side, rng.random()))
        corner = corner + (3 if overlapping else 1000)
        found.append((np.concatenate([corner, corner + rng.uniform(10, 140)]), rng.random()))
    return one_class(truth, found)


@pytest.mark.parametrize("seed", range(3))
def test_evaluating_what_is_left_gives_the_same(seed):
    data = random_class(seed, overlapping=True)
    truth, found = sides(data)
    groups = groups_of(data)
    area = pixel_inclusive_area(truth.boxes)
    sizes = {name: groups[name].area_range for name in (*COCO_SIZES, *SIZE_QUARTERS)}
    assert sum(groups[quarter].num_ground_truth for quarter in SIZE_QUARTERS) == (~truth.difficult).sum()
    inside = {name: ~truth.difficult & (area >= low) & (area < high) for name, (low, high) in sizes.items()}
    inside["whole"] = ~truth.difficult & ~truth.truncated
    inside["truncated"] = ~truth.difficult & truth.truncated
    inside["difficult_only"] = truth.difficult
    inside["difficult_counted"] = np.ones(len(truth), bool)
    for name, members in inside.items():
        asked = GroundTruth(truth.image_index, truth.boxes, ~members)
        keep = np.ones(len(found), bool)
        if name in sizes:
            own = pixel_inclusive_area(found.boxes)
            keep = (own >= sizes[name][0]) & (own < sizes[name][1])
            matches = match_detections(asked, found, 0.5)
            keep[matches.order[matches.true_positive]] = True
        left = Detections(found.image_index[keep], found.boxes[keep], found.scores[keep])
        expected = evaluate_class(asked, left)
        assert groups[name].num_ground_truth == expected.num_ground_truth > 5
        assert groups[name].ap_area == pytest.approx(expected.ap_area, abs=1e-14), name
        assert groups[name].ap_11point == pytest.approx(expected.ap_11point, abs=1e-14), name
        assert 0 < groups[name].recall == expected.num_true_positives / expected.num_ground_truth


@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_gives_the_same_sizes(seed, monkeypatch, capsys):
    """COCO's AP at IoU 0.5 by size, with objects apart and found once at most, where COCO's and VOC's matching agree.

    No difficult ones, which COCO does not have. Its 101 recall levels are put in place of ours.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    monkeypatch.setattr(
        "sosr_det.evaluation.errors.groups.area_ap",
        lambda right, num: precision_at_recalls(right, num, 100).mean(),
    )
    data = random_class(seed, overlapping=False)
    truth, found = sides(data)
    data = EvaluationSet(
        ["cat"],
        ["im"],
        {"cat": GroundTruth(truth.image_index, truth.boxes, np.zeros(len(truth), bool))},
        {"cat": found},
    )

    def xywh(boxes):
        return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1]).tolist()

    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(xywh(truth.boxes))
        ],
    }
    coco.createIndex()
    results = coco.loadRes(
        [
            {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(xywh(found.boxes), found.scores.tolist(), strict=True)
        ]
    )
    evaluator = COCOeval(coco, results, "bbox")
    evaluator.params.maxDets = [1000]
    evaluator.params.recThrs = np.arange(101) / 100  # np.linspace's levels are not all the nearest floats
    evaluator.evaluate()
    evaluator.accumulate()
    capsys.readouterr()
    groups = groups_of(data)
    for i, size in enumerate(COCO_SIZES, 1):
        precision = evaluator.eval["precision"][0, :, 0, i, 0]
        assert groups[size].ap_area == pytest.approx(precision.mean(), abs=1e-9)
        assert 0.02 < groups[size].ap_area < 1
        assert groups[size].recall == pytest.approx(evaluator.eval["recall"][0, 0, i, 0], abs=1e-12)
