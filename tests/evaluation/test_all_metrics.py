"""Every metric from one call: against the slow loop, MMDetection's eval_map, and the one-metric doors."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from sosr_det.evaluation import all_metrics, matching
from sosr_det.evaluation.all_metrics import evaluate_detections
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.coco_ap import IOU_THRESHOLDS, evaluate_coco
from sosr_det.evaluation.voc_ap import evaluate_class, evaluate_voc

from .slow_voc import random_rows, reference_ap

BOX = (1, 1, 10, 10)
CLASSES = ("a", "b", "c")
# As people write them; the fractions are what they mean.
THRESHOLDS = {
    0.5: Fraction(1, 2),
    0.75: Fraction(3, 4),
    0.3: Fraction(3, 10),
    0.95: Fraction(19, 20),
    0.0: Fraction(0),
}


def as_set(rows, num_images=40):
    """``{class: (ground truth rows, detection rows)}``."""
    return EvaluationSet(
        tuple(rows),
        [f"image {index}" for index in range(num_images)],
        {
            n: GroundTruth([r[0] for r in t], [r[1] for r in t], [r[2] for r in t])
            for n, (t, _) in rows.items()
        },
        {
            n: Detections([r[0] for r in d], [r[1] for r in d], [r[2] for r in d])
            for n, (_, d) in rows.items()
        },
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("comparison", [">", ">="])
def test_every_threshold_equals_the_slow_loop(seed, comparison):
    rng = np.random.default_rng(seed)
    rows = {name: random_rows(rng, int(rng.integers(1, 40))) for name in CLASSES}
    thresholds = [t for t in THRESHOLDS if t or comparison == ">"]
    metrics = evaluate_detections(as_set(rows), iou_thresholds=thresholds, iou_comparison=comparison)
    assert list(metrics.voc) == thresholds
    for threshold in thresholds:
        result = metrics.voc[threshold]
        expected = {
            n: reference_ap(*rows[n], threshold=THRESHOLDS[threshold], or_equal=comparison == ">=")
            for n in rows
        }
        present = [aps for aps in expected.values() if aps is not None]
        for name, aps in expected.items():
            ap_11point, ap_area = (math.nan, math.nan) if aps is None else map(float, aps)
            assert result.per_class[name].ap_11point == pytest.approx(ap_11point, abs=1e-12, nan_ok=True)
            assert result.per_class[name].ap_area == pytest.approx(ap_area, abs=1e-12, nan_ok=True)
        assert result.map_area == pytest.approx(float(sum(a[1] for a in present)) / len(present), abs=1e-12)
        assert (result.iou_threshold, result.iou_comparison) == (threshold, comparison)


def test_the_two_comparisons_differ_only_at_the_threshold():
    half = ({"a": ([(0, BOX, False)], [(0, (1, 1, 10, 5), 0.5)])}, 0.5)
    three_tenths = ({"a": ([(0, BOX, False)], [(0, (1, 1, 10, 3), 0.5)])}, 0.3)
    more = ({"a": ([(0, BOX, False)], [(0, (1, 1, 10, 6), 0.5)])}, 0.5)
    for (rows, threshold), expected in ((half, (0.0, 1.0)), (three_tenths, (0.0, 1.0)), (more, (1.0, 1.0))):
        found = tuple(
            evaluate_detections(
                as_set(rows), iou_thresholds=[threshold], iou_comparison=comparison
            ).first.map_area
            for comparison in (">", ">=")
        )
        assert found == expected


def test_one_pass_gives_the_numbers_of_the_simple_doors():
    rows = {name: random_rows(np.random.default_rng(7), 60) for name in CLASSES}
    data = as_set(rows)
    metrics = evaluate_detections(data, iou_thresholds=(0.75, 0.5), recall_thresholds="arange", coco=True)
    for threshold, result in metrics.voc.items():
        alone = evaluate_voc(
            data.ground_truth, data.detections, CLASSES, iou_threshold=threshold, recall_thresholds="arange"
        )
        assert (result.map_11point, result.map_area) == (alone.map_11point, alone.map_area)
        for name in CLASSES:
            one = evaluate_class(
                data.ground_truth[name],
                data.detections[name],
                iou_threshold=threshold,
                recall_thresholds="arange",
            )
            assert result.per_class[name].ap_11point == one.ap_11point
            np.testing.assert_array_equal(result.per_class[name].precision, one.precision)
            np.testing.assert_array_equal(result.per_class[name].recall, one.recall)
            np.testing.assert_array_equal(result.per_class[name].scores, one.scores)
    assert metrics.coco == evaluate_coco(data)
    assert metrics.first is metrics.voc[0.75]
    assert metrics.mean_map_area == (metrics.voc[0.5].map_area + metrics.voc[0.75].map_area) / 2
    assert metrics.mean_map_11point == (metrics.voc[0.5].map_11point + metrics.voc[0.75].map_11point) / 2


def test_the_comparison_is_done_once_whatever_the_thresholds(monkeypatch):
    calls = []
    original = matching.best_ground_truth
    monkeypatch.setattr(matching, "best_ground_truth", lambda *args: calls.append(1) or original(*args))
    rows = {name: random_rows(np.random.default_rng(1), 9) for name in CLASSES}
    evaluate_detections(as_set(rows), iou_thresholds=IOU_THRESHOLDS)
    assert len(calls) == len(CLASSES)


def test_the_dictionary_is_json_with_everything_but_the_curves():
    rows = {
        "cat": (
            [(0, BOX, False), (1, BOX, True), (2, BOX, False), (3, BOX, False)],
            [(0, BOX, 0.9), (1, BOX, 0.8)],
        ),
        "owl": ([(1, BOX, True)], [(0, BOX, 0.9)]),
    }
    written = evaluate_detections(as_set(rows), iou_thresholds=(0.5, 0.75), coco=True).to_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert {key: written[key] for key in list(written)[:9]} == {
        "num_images": 40,
        "num_detections": 3,
        "num_ground_truth": 3,
        "num_difficult": 2,
        "classes": ["cat", "owl"],
        "classes_without_ground_truth": ["owl"],
        "recall_thresholds": "exact",
        "iou_comparison": ">",
        "iou_thresholds": [0.5, 0.75],
    }
    for at, threshold in zip(written["voc"], (0.5, 0.75), strict=True):
        assert at["iou_threshold"] == threshold
        assert at["ap_area"] == {"cat": 1 / 3, "owl": None}
        assert at["ap_11point"] == {"cat": 4 / 11, "owl": None}
        assert (at["map_area"], at["map_11point"]) == (1 / 3, 4 / 11)  # full precision
        assert at["counts"]["cat"] == {
            "ground_truth": 3,
            "difficult": 1,
            "detections": 2,
            "true_positives": 1,
            "false_positives": 0,
            "ignored": 1,
        }
    assert written["mean_over_iou_thresholds"]["map_area"] == 1 / 3
    assert written["coco"]["per_class"]["owl"]["ap50"] is None
    assert written["coco"]["ap50"] == pytest.approx(34 / 101)

    alone = evaluate_detections(as_set({"owl": rows["owl"]})).to_dict()
    assert alone["voc"][0]["map_area"] is None
    assert not {"coco", "mean_over_iou_thresholds"} & set(alone)
    json.dumps(alone, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_thresholds": ()}, "at least one threshold and none twice"),
        ({"iou_thresholds": (0.5, 0.5)}, "at least one threshold and none twice"),
        ({"iou_thresholds": (0.5, 1.0)}, "less than 1, got 1.0"),
        ({"iou_thresholds": (0,), "iou_comparison": ">="}, "must be greater than 0 with iou_comparison '>='"),
        ({"iou_comparison": "≥"}, "iou_comparison must be one of"),
        ({"recall_thresholds": "exactly"}, "recall_thresholds must be one of"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_detections(as_set({"a": ([], [])}), **options)


def test_images_beyond_the_set_are_refused():
    with pytest.raises(ValueError, match=r"class 'a': detections: image_index must be in 0..1, got 2"):
        evaluate_detections(as_set({"a": ([], [(2, BOX, 0.5)])}, num_images=2))


def test_coco_is_not_computed_unasked(monkeypatch):
    monkeypatch.setattr(all_metrics, "evaluate_coco", None)
    assert evaluate_detections(as_set({"a": ([], [])})).coco is None


# --- MMDetection's eval_map, through its own per-image lists


def eval_map_of(data, mode, threshold=0.5):
    """AP per class. float32 throughout; NaN where there is no ground truth (it says 0)."""
    from mmdet.evaluation.functional import eval_map

    from sosr_det.analysis.bench_eval_voc import as_mmdet_lists

    _, results = eval_map(
        *as_mmdet_lists(data),
        iou_thr=threshold,
        use_legacy_coordinate=True,
        eval_mode=mode,
        logger="silent",
        nproc=2,
    )
    return [r["ap"] if r["num_gts"] else math.nan for r in results]


def without_ties(rows, rng):
    """MMDetection sorts unstably and by float32 scores."""
    scores = rng.permutation(len(rows)) / 4096
    return [(image, box, float(score)) for (image, box, _), score in zip(rows, scores, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_equals_mmdetections_eval_map(seed):
    """Apart from what is documented: it compares with >=, and its recall levels and AP are float32."""
    rng = np.random.default_rng(seed)
    rows = {}
    for name in CLASSES:
        truth, found = random_rows(rng, 60)
        # Difficult ones last, as it has them: of equal overlaps the first counts.
        rows[name] = (sorted(truth, key=lambda row: row[2]), without_ties(found, rng))
    data = as_set(rows)
    ours = evaluate_detections(
        data, iou_thresholds=(0.5, 0.75), recall_thresholds="arange", iou_comparison=">="
    ).voc
    for threshold in (0.5, 0.75):
        of_class = ours[threshold].per_class.values()
        assert [ap.ap_area for ap in of_class] == pytest.approx(
            eval_map_of(data, "area", threshold), abs=1e-6
        )
        assert [ap.ap_11point for ap in of_class] == pytest.approx(
            eval_map_of(data, "11points", threshold), abs=1e-6
        )
    # These boxes have overlaps of exactly 1/2 and 3/4: with > the numbers are others.
    other = evaluate_detections(data, iou_thresholds=(0.5, 0.75), recall_thresholds="arange").voc
    assert abs(other[0.5].map_area - ours[0.5].map_area) > 1e-3


# --- real detections


def test_real_detections_at_many_thresholds(yolov2):
    data, golden = yolov2
    ports = evaluate_detections(data, iou_thresholds=IOU_THRESHOLDS, recall_thresholds="arange")
    exact = evaluate_detections(data, iou_thresholds=IOU_THRESHOLDS)
    first = ports.to_dict()["voc"][0]
    for metric in ("ap_11point", "ap_area"):
        assert list(first[metric]) == list(golden[metric])
        for name, value in golden[metric].items():
            assert first[metric][name] == pytest.approx(value, abs=1e-9), (metric, name)
    for metric in ("map_11point", "map_area"):
        assert first[metric] == pytest.approx(golden[metric], abs=1e-9)
    # Area AP has no recall levels.
    assert [r.map_area for r in exact.voc.values()] == [r.map_area for r in ports.voc.values()]
    falling = [result.map_area for result in exact.voc.values()]
    assert falling == sorted(falling, reverse=True)
    # COCO's AP of the same boxes is near: 0.4218 (test_coco_ap.py says how the two differ).
    assert exact.mean_map_area == pytest.approx(0.42, abs=0.01)
    # No overlap is exactly 1/2.
    assert evaluate_detections(data, iou_comparison=">=").first.map_area == exact.first.map_area
