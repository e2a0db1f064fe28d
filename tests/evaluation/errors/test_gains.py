"""AP gained by fixing each kind of error: by hand, by really fixing the boxes, and against TIDE's own code."""

from __future__ import annotations

import numpy as np
import pytest

from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors.analysis import count_errors, mean_gain
from sosr_det.evaluation.errors.curve import area_ap, eleven_point_ap, precision_at_recalls
from sosr_det.evaluation.errors.gains import CURVE_KINDS, ap_gains
from sosr_det.evaluation.errors.missed import missed_objects, repairing_detection
from sosr_det.evaluation.errors.outcomes import FALSE_POSITIVE_KINDS, KINDS, explain_detections
from sosr_det.evaluation.voc_ap import evaluate_voc

CLASSES = ("a", "b", "c")


def grid_set(seed, difficult=0.0, classes=CLASSES):
    """Objects of one class never overlap, so that matching to the best and to the best free object agree; no equal
    scores, and no IoU of exactly a threshold, which TIDE's code takes for a match."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(8):
        for cell in range(9):
            corner = np.array([70 * (cell % 3), 70 * (cell // 3)])
            first, second = rng.permutation(len(classes))[:2]
            box = np.concatenate([corner + 5, corner + rng.integers(35, 55, 2)])
            if rng.random() < 0.8:
                truth.append((first, image, box))
            if rng.random() < 0.3:
                truth.append((second, image, box + rng.integers(-3, 12)))
            for _ in range(rng.integers(0, 4)):
                label = first if rng.random() < 0.6 else rng.integers(len(classes))
                found.append((label, image, box + rng.uniform(-8, 14, 4)))
        for _ in range(3):
            corner = rng.integers(0, 180, 2)
            found.append((rng.integers(len(classes)), image, np.concatenate([corner, corner + 30])))
    truth = [(*row, rng.random() < difficult) for row in truth]
    scores = rng.permutation(len(found)) / len(found)
    return rows_to_set(truth, [(*row, score) for row, score in zip(found, scores, strict=True)], 8, classes)


def rows_to_set(truth, found, num_images, classes=CLASSES):
    def columns(rows, label):
        rows = [row for row in rows if row[0] == label]
        return (
            [r[1] for r in rows],
            np.array([r[2] for r in rows]).reshape(-1, 4),
            [r[3] for r in rows],
        )

    return EvaluationSet(
        classes,
        [str(i) for i in range(num_images)],
        {name: GroundTruth(*columns(truth, i)) for i, name in enumerate(classes)},
        {name: Detections(*columns(found, i)) for i, name in enumerate(classes)},
    )


@pytest.mark.parametrize(
    ("flags", "num", "area", "eleven"),
    [
        ([1, 1], 2, 1.0, 1.0),
        ([0, 1], 1, 0.5, 0.5),
        ([1, 0], 2, 0.5, 6 / 11),
        ([], 3, 0.0, 0.0),
        ([1, 0, 1], 2, (1 + 2 / 3) / 2, (6 + 5 * 2 / 3) / 11),
    ],
)
def test_average_precision_of_flags(flags, num, area, eleven):
    flags = np.array(flags, bool)
    assert area_ap(flags, num) == pytest.approx(area, abs=1e-15)
    assert eleven_point_ap(flags, num) == pytest.approx(eleven, abs=1e-15)


def test_precision_at_recalls_stands_at_the_exact_levels():
    # Recall 3/10 is reached by the third; np.arange's 0.30000000000000004 would not be.
    curve = precision_at_recalls(np.array([1, 1, 1, 0], bool), 10, 10)
    assert curve.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_by_hand():
    """Two objects a, one b; each kind's gain from the two or three points of its curve."""

    def box(x, width=10):
        return (x, 0, x + width - 1, 9)

    truth = [(0, 0, box(0), False), (0, 0, box(100), False), (1, 0, box(200), False)]
    found = [
        (0, 0, box(900), 0.9),  # background
        (0, 0, box(0), 0.8),  # right
        (0, 0, box(100, 30), 0.7),  # loose
        (1, 0, box(0, 11), 0.6),  # b on an a that is found: removed when fixed
    ]
    outcomes = explain_detections(rows_to_set(truth, found, 1))
    gains = ap_gains(outcomes, area_ap)
    # a: false, right, false -> precision 1/2 at recall 1/2.
    np.testing.assert_array_equal(gains.ap, [0.25, 0, np.nan])
    expected = {
        "classification": [0, 0],  # b's only detection goes; nothing finds b
        "localisation": [(2 / 3 + 2 / 3) / 2 - 0.25, 0],  # false, right, right
        "both": [0, 0],
        "duplicate": [0, 0],
        "background": [0.25, 0],  # right, false
        "missed": [0, 0],  # b is missed; none of it was found, so nothing is known of its precision
        "false_positive": [0.25, 0],
        "false_negative": [0.25, 0],  # false, right of one object
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(gains.gain[kind], [*values, np.nan], atol=1e-15, err_msg=kind)


def really_fixed(data, outcomes, kind):
    """The set with one kind of error mended in its boxes and classes, to be matched and evaluated anew."""
    repairs = repairing_detection(outcomes)
    gone = set(np.flatnonzero(missed_objects(outcomes)).tolist()) if kind == "missed" else set()
    if kind == "false_negative":
        gone = set(np.flatnonzero((outcomes.found_by < 0) & ~outcomes.difficult).tolist())
    truth = [
        (outcomes.gt_label[g], outcomes.gt_image[g], outcomes.gt_box[g], outcomes.difficult[g])
        for g in range(len(outcomes.gt_label))
        if g not in gone
    ]
    found = []
    for d in range(len(outcomes.label)):
        label, box = outcomes.label[d], outcomes.box[d]
        if kind == "false_positive" and outcomes.is_false_positive[d]:
            continue
        if kind in FALSE_POSITIVE_KINDS and outcomes.is_kind(kind)[d]:
            target = outcomes.target[d]
            if kind not in ("classification", "localisation") or repairs[target] != d:
                continue
            label, box = outcomes.gt_label[target], outcomes.gt_box[target]
        found.append((label, outcomes.image[d], box, outcomes.score[d]))
    return rows_to_set(truth, found, data.num_images, data.class_names)


@pytest.mark.parametrize("difficult", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(3))
def test_evaluating_the_mended_boxes_gives_the_same(seed, difficult):
    """Right only where matching leaves the others alone: objects of one class are apart, as here."""
    data = grid_set(seed, difficult)
    outcomes = explain_detections(data)
    assert all(v.sum() > 1 for v in count_errors(outcomes).values())
    gains = {"area": ap_gains(outcomes, area_ap), "11point": ap_gains(outcomes, eleven_point_ap)}
    before = evaluate_voc(data.ground_truth, data.detections, CLASSES)
    for kind in (*KINDS, *CURVE_KINDS):
        mended = really_fixed(data, outcomes, kind)
        after = evaluate_voc(mended.ground_truth, mended.detections, CLASSES)
        for i, name in enumerate(CLASSES):
            for metric, each in gains.items():
                ap = getattr(before.per_class[name], f"ap_{metric}")
                assert each.ap[i] == pytest.approx(ap, abs=1e-14)
                expected = getattr(after.per_class[name], f"ap_{metric}") - ap
                assert each.gain[kind][i] == pytest.approx(expected, abs=1e-14), (kind, metric, name)
                assert each.gain[kind][i] >= 0


def test_a_class_without_objects_has_no_gain_and_is_not_in_the_mean():
    data = rows_to_set(
        [(0, 0, (0, 0, 9, 9), False), (2, 0, (50, 0, 59, 9), True)], [(1, 0, (0, 0, 9, 9), 0.5)], 1
    )
    gains = ap_gains(explain_detections(data), area_ap)
    np.testing.assert_array_equal(gains.ap, [0, np.nan, np.nan])
    np.testing.assert_array_equal(gains.gain["classification"], [1, np.nan, np.nan])
    assert mean_gain(gains.gain["classification"]) == 1
    assert np.isnan(mean_gain(np.full(3, np.nan)))


@pytest.mark.parametrize("seed", range(4))
def test_tide_itself_counts_and_gains_the_same(seed):
    """tidecv, the paper's code; its AP has 101 recall levels, and so has ours here."""
    tidecv = pytest.importorskip("tidecv", reason="the peer tidecv is not installed (pip install tidecv)")
    data = grid_set(10 + seed)
    truth, found = tidecv.Data("truth"), tidecv.Data("found")

    def xywh(box):
        return [box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1]

    for label, name in enumerate(CLASSES):
        gt, det = data.ground_truth[name], data.detections[name]
        for image, box in zip(gt.image_index, gt.boxes, strict=True):
            truth.add_ground_truth(int(image), label, xywh(box.tolist()))
        for image, box, score in zip(det.image_index, det.boxes, det.scores, strict=True):
            found.add_detection(int(image), label, float(score), xywh(box.tolist()))
    run = tidecv.TIDE().evaluate(truth, found, mode=tidecv.TIDE.BOX)

    ours_of = dict(
        zip(
            ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FalsePos", "FalseNeg"),
            (*KINDS, *CURVE_KINDS),
            strict=True,
        )
    )
    outcomes = explain_detections(data)
    counts = count_errors(outcomes)
    theirs = {ours_of[kind.short_name]: number for kind, number in run.count_errors().items()}
    assert {kind: int(counts[kind].sum()) for kind in KINDS} == theirs
    assert min(theirs.values()) > 1

    gains = ap_gains(outcomes, lambda right, num: precision_at_recalls(right, num, 100).mean())
    assert mean_gain(gains.ap) == pytest.approx(run.ap / 100, abs=1e-12)
    for kind, gain in (run.fix_main_errors() | run.fix_special_errors()).items():
        name = ours_of[kind.short_name]
        assert mean_gain(gains.gain[name]) == pytest.approx(gain / 100, abs=1e-12), name
