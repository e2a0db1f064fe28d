"""The six kinds of error: a case made by hand, a slow loop, and detections whose errors were put in on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors.analysis import count_errors
from sosr_det.evaluation.errors.missed import missed_objects, repairing_detection
from sosr_det.evaluation.errors.outcomes import (
    FALSE_POSITIVE_KINDS,
    IGNORED,
    KINDS,
    TRUE_POSITIVE,
    explain_detections,
)
from sosr_det.evaluation.voc_ap import evaluate_voc


def make_set(classes, truth, found, num_images=None):
    """``truth`` rows (class, image, box, difficult), ``found`` rows (class, image, box, score)."""
    num_images = num_images or 1 + max([row[1] for row in (*truth, *found)], default=0)

    def columns(rows, name):
        return zip(*[row[1:] for row in rows if row[0] == name], strict=True)

    def of(kind, rows, name):
        return kind(*columns(rows, name)) if any(row[0] == name for row in rows) else kind.empty()

    gt = {name: of(GroundTruth, truth, name) for name in classes}
    det = {name: of(Detections, found, name) for name in classes}
    return EvaluationSet(classes, [f"im{i}" for i in range(num_images)], gt, det)


def kinds_of(data, **options):
    """The outcome of each detection in words, class by class."""
    names = {TRUE_POSITIVE: "right", IGNORED: "ignored", **dict(enumerate(FALSE_POSITIVE_KINDS))}
    return [names[value] for value in explain_detections(data, **options).outcome.tolist()]


# A 10 by 10 object; boxes [0, 9 + d] have an IoU of 10 / (10 + d) with it.
OBJECT = (0, 0, 9, 9)
FAR = (50, 50, 59, 59)


@pytest.mark.parametrize(
    ("box", "label", "expected"),
    [
        (OBJECT, "cat", "right"),
        ((0, 0, 18, 9), "cat", "right"),
        ((0, 0, 29, 9), "cat", "localisation"),
        (OBJECT, "dog", "classification"),
        ((0, 0, 29, 9), "dog", "both"),
        (FAR, "cat", "background"),
        (FAR, "dog", "background"),
    ],
)
def test_one_detection_of_one_object(box, label, expected):
    data = make_set(["cat", "dog"], [("cat", 0, OBJECT, False)], [(label, 0, box, 0.5)])
    assert kinds_of(data) == [expected]


def test_six_kinds_by_hand():
    """One image, seven objects and seven detections; every number below can be checked on paper."""

    def at(x, width=10):  # objects are 10 x 10, 100 apart; a width of 30 gives an IoU of 1/3
        return (x, 0, x + width - 1, 9)

    truth = [
        ("cat", 0, at(0), False),  # found, then found again
        ("cat", 0, at(100), False),  # loose box
        ("cat", 0, at(200), False),  # called a dog
        ("cat", 0, at(300), False),  # called a dog, loosely: nobody could repair that, so it is missed
        ("cat", 0, at(400), False),  # nothing near: missed
        ("dog", 0, at(500), True),  # difficult: ignored
    ]
    found = [
        ("cat", 0, at(0), 0.9),
        ("cat", 0, at(0, 12), 0.8),
        ("cat", 0, at(100, 30), 0.7),
        ("cat", 0, at(900), 0.6),
        ("dog", 0, at(200), 0.9),
        ("dog", 0, at(300, 30), 0.8),
        ("dog", 0, at(500), 0.7),
    ]
    data = make_set(["cat", "dog"], truth, found)
    assert kinds_of(data) == [
        "right", "duplicate", "localisation", "background", "classification", "both", "ignored"
    ]  # fmt: skip
    outcomes = explain_detections(data)
    assert outcomes.target.tolist() == [0, 0, 1, -1, 2, 3, 5]
    np.testing.assert_allclose(outcomes.target_iou, [1, 10 / 12, 1 / 3, 0, 1, 1 / 3, 1])
    assert outcomes.found_by.tolist() == [0, -1, -1, -1, -1, -1]
    assert repairing_detection(outcomes).tolist() == [-1, 2, 4, -1, -1, -1]
    assert missed_objects(outcomes).tolist() == [False, False, False, True, True, False]
    counts = count_errors(outcomes)
    assert {kind: counts[kind].tolist() for kind in KINDS} == {
        "classification": [0, 1],
        "localisation": [1, 0],
        "both": [0, 1],
        "duplicate": [1, 0],
        "background": [1, 0],
        "missed": [2, 0],
    }
    # Without the loose box and the dog on it, two more objects are missed.
    assert missed_objects(outcomes, outcomes.score > 0.95).sum() == 5


@pytest.mark.parametrize(
    ("width", "label", "expected"),
    [
        (20, "cat", "localisation"),  # IoU of exactly 0.5 is no match
        (20, "dog", "both"),
        (19, "dog", "classification"),
        (100, "cat", "localisation"),  # exactly 0.1
        (101, "cat", "background"),
        (100, "dog", "background"),  # of another class it must exceed 0.1
        (99, "dog", "both"),
    ],
)
def test_both_sides_of_the_thresholds(width, label, expected):
    data = make_set(["cat", "dog"], [("cat", 0, OBJECT, False)], [(label, 0, (0, 0, width - 1, 9), 0.5)])
    assert kinds_of(data) == [expected]


def test_own_class_goes_first_and_a_duplicate_on_another_object_is_a_class_error():
    loose_on_cat_tight_on_dog = (0, 0, 29, 9)
    truth = [("cat", 0, OBJECT, False), ("dog", 0, loose_on_cat_tight_on_dog, False)]
    assert kinds_of(make_set(["cat", "dog"], truth, [("cat", 0, loose_on_cat_tight_on_dog, 0.5)])) == [
        "localisation"
    ]
    truth = [("cat", 0, OBJECT, False), ("dog", 0, (0, 0, 9, 10), False)]
    found = [("cat", 0, OBJECT, 0.9), ("cat", 0, OBJECT, 0.8)]
    assert kinds_of(make_set(["cat", "dog"], truth, found)) == ["right", "classification"]


def test_difficult_objects_explain_errors_but_are_not_missed():
    truth = [("cat", 0, OBJECT, True)]
    data = make_set(["cat", "dog"], truth, [("cat", 0, (0, 0, 29, 9), 0.9), ("dog", 0, OBJECT, 0.9)])
    assert kinds_of(data) == ["localisation", "classification"]
    outcomes = explain_detections(data)
    assert not missed_objects(outcomes).any()
    assert repairing_detection(outcomes).tolist() == [-1]


def test_other_images_do_not_matter():
    data = make_set(["cat"], [("cat", 1, OBJECT, False)], [("cat", 0, OBJECT, 0.9)])
    assert kinds_of(data) == ["background"]
    assert missed_objects(explain_detections(data)).tolist() == [True]


def test_nothing_at_all():
    outcomes = explain_detections(make_set(["cat", "dog"], [], [], num_images=2))
    assert len(outcomes.outcome) == 0
    assert not missed_objects(outcomes).any()
    only_truth = explain_detections(make_set(["cat"], [("cat", 0, OBJECT, False)], []))
    assert missed_objects(only_truth, np.zeros(0, bool)).tolist() == [True]
    assert kinds_of(make_set(["cat"], [], [("cat", 0, OBJECT, 0.9)])) == ["background"]


def test_zero_background_iou_still_has_background():
    data = make_set(["cat"], [("cat", 0, OBJECT, False)], [("cat", 0, FAR, 0.9)])
    assert kinds_of(data, background_iou=0.0) == ["background"]


@pytest.mark.parametrize("pair", [(0.1, 0.5), (0.5, 0.5), (1.0, 0.1), (float("nan"), 0.1), (0.5, -0.1)])
def test_unusable_thresholds(pair):
    data = make_set(["cat"], [("cat", 0, OBJECT, False)], [])
    with pytest.raises(ValueError, match=r"0 <= background_iou < foreground_iou < 1"):
        explain_detections(data, foreground_iou=pair[0], background_iou=pair[1])


def random_set(seed, num_images=12, classes=("a", "b", "c")):
    """Crowded images, so that every kind and every conflict comes up; some equal scores."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner, size = rng.integers(0, 60, (n, 2)), rng.integers(5, 40, (n, 2))
        return np.concatenate([corner, corner + size], axis=1)

    truth = [
        (rng.choice(classes), int(rng.integers(num_images)), box, bool(rng.random() < 0.2))
        for box in boxes(40).tolist()
    ]
    found = [
        (rng.choice(classes), int(rng.integers(num_images)), box, round(rng.random(), 2))
        for box in boxes(60).tolist()
    ]
    for name, image, box, _ in [truth[i] for i in rng.integers(0, len(truth), 120)]:
        name = name if rng.random() < 0.7 else rng.choice(classes)
        moved = np.array(box) + rng.integers(-6, 7, 4) * [1, 1, 0, 0]
        found.append((name, image, moved.tolist(), round(rng.random(), 2)))
    return make_set(list(classes), truth, found, num_images)


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return w * h / (area[0] + area[1] - w * h)


def slow_kinds(data, tf=0.5, tb=0.1):
    """The definition in loops; returns the outcome of each detection and whether each object is missed."""
    truth = [
        (name, int(gt.image_index[i]), gt.boxes[i], bool(gt.difficult[i]))
        for name, gt in ((n, data.ground_truth[n]) for n in data.class_names)
        for i in range(len(gt))
    ]
    found = [
        (name, int(det.image_index[i]), det.boxes[i], det.scores[i])
        for name, det in ((n, data.detections[n]) for n in data.class_names)
        for i in range(len(det))
    ]
    result, taken, noticed = [None] * len(found), set(), set()
    for d in sorted(range(len(found)), key=lambda d: -found[d][3]):
        name, image, box, _ = found[d]
        here = [g for g in range(len(truth)) if truth[g][1] == image]
        own = max([(iou(box, truth[g][2]), -g) for g in here if truth[g][0] == name], default=(0.0, 1))
        other = max([(iou(box, truth[g][2]), -g) for g in here if truth[g][0] != name], default=(0.0, 1))
        if own[0] > tf and truth[-own[1]][3]:
            result[d] = "ignored"
        elif own[0] > tf and -own[1] not in taken:
            result[d] = "right"
            taken.add(-own[1])
        elif tb <= own[0] <= tf:
            result[d] = "localisation"
            noticed.add(-own[1])
        elif other[0] > tf:
            result[d] = "classification"
            noticed.add(-other[1])
        elif own[0] > tf:
            result[d] = "duplicate"
        elif other[0] > tb:
            result[d] = "both"
        else:
            result[d] = "background"
    missed = [not t[3] and g not in taken | noticed for g, t in enumerate(truth)]
    return result, missed


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_loops(seed):
    data = random_set(seed)
    kinds, missed = slow_kinds(data)
    assert kinds_of(data) == kinds
    outcomes = explain_detections(data)
    assert missed_objects(outcomes).tolist() == missed
    assert {"right", "ignored", *FALSE_POSITIVE_KINDS} == set(kinds)  # the sets are hard enough
    # Nothing is lost: with the kinds, the counts of the evaluation come out.
    voc = evaluate_voc(data.ground_truth, data.detections, data.class_names)
    counts = count_errors(outcomes)
    for i, name in enumerate(data.class_names):
        assert sum(counts[k][i] for k in FALSE_POSITIVE_KINDS) == voc.per_class[name].num_false_positives
        of_class = outcomes.label == i
        assert (outcomes.outcome[of_class] == IGNORED).sum() == voc.per_class[name].num_ignored
    # Detections below a score can be left out without matching again.
    for threshold in (0.3, 0.8):
        kept = {
            n: Detections(*(column[d.scores >= threshold] for column in (d.image_index, d.boxes, d.scores)))
            for n, d in data.detections.items()
        }
        again = EvaluationSet(data.class_names, data.image_ids, data.ground_truth, kept)
        expected = count_errors(explain_detections(again))
        counted = count_errors(outcomes, outcomes.score >= threshold)
        assert {k: v.tolist() for k, v in counted.items()} == {k: v.tolist() for k, v in expected.items()}


def test_errors_put_in_come_out():
    """Objects far apart, one mishap each: as many of each kind come out as were put in."""
    wanted = dict(zip(KINDS, (7, 11, 5, 13, 17, 3), strict=True))
    rng = np.random.default_rng(5)
    truth, found = [], []

    def place(k):  # every object has 200 x 200 pixels of an image to itself
        x, y = 200 * (k % 5), 200 * (k // 5 % 5)
        return k // 25, (x + 50, y + 50, x + 109, y + 109)

    number = iter(range(10_000))
    for kind, count in {**wanted, "right": 30, "ignored": 4}.items():
        for _ in range(count):
            image, box = place(next(number))
            x1, y1, x2, y2 = box
            name = str(rng.choice(["a", "b", "c"]))
            wrong = {"a": "b", "b": "c", "c": "a"}[name]
            loose = (x1, y1, x2 + 90, y2)  # IoU 60/150
            if kind != "background":
                truth.append((name, image, box, kind == "ignored"))
            score = float(rng.random())
            if kind in ("right", "ignored", "duplicate", "background"):
                found.append((name, image, box, score))
            if kind == "duplicate":
                found.append((name, image, (x1, y1, x2 + 3, y2), score / 2))
            if kind == "localisation":
                found.append((name, image, loose, score))
            if kind == "classification":
                found.append((wrong, image, box, score))
            if kind == "both":  # the object itself is found, so that it does not count as missed
                found += [(wrong, image, loose, score), (name, image, box, 0.5)]
    counts = count_errors(explain_detections(make_set(["a", "b", "c"], truth, found)))
    assert {kind: int(counts[kind].sum()) for kind in KINDS} == wanted
