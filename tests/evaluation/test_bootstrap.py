"""Intervals over images and seeds: by hand, against slow loops, and on both sides of a verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sosr_det.evaluation.bootstrap import (
    FEWEST_SEEDS,
    Resampled,
    draw_images,
    interval,
    resample_accuracy,
    resample_detections,
)
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.voc_ap import evaluate_voc


def constant(values, num_resamples=50):
    """Seeds whose value no resample of images changes."""
    point = np.array(values, float)
    return point, np.repeat(point[:, None], num_resamples, axis=1)


# ---- the interval --------------------------------------------------------------------------------------------------


def test_without_influence_of_the_images_it_is_the_t_interval():
    found = interval(*constant([0.01, 0.02, 0.06]))
    # mean 0.03, standard deviation sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2); t of 2 degrees of freedom is 4.302653.
    std = math.sqrt((0.0004 + 0.0001 + 0.0009) / 2)
    assert found.difference == pytest.approx(0.03)
    assert found.std_over_seeds == pytest.approx(std)
    assert found.half_width == pytest.approx(4.302653 * std / math.sqrt(3), rel=1e-6)
    assert found.seeds_half_width == pytest.approx(found.half_width)
    assert found.shared_image_std == pytest.approx(0, abs=1e-12)
    assert (found.images_low, found.images_high) == pytest.approx((0.03, 0.03))


def test_without_influence_of_the_seeds_it_is_the_normal_interval_over_images():
    shared = np.random.default_rng(0).normal(0.02, 0.01, 4000)
    found = interval(np.full(4, 0.02), np.tile(shared, (4, 1)))
    assert found.half_width == pytest.approx(1.959964 * np.std(shared, ddof=1), rel=1e-6)
    assert found.seeds_half_width == 0
    assert (found.images_low, found.images_high) == pytest.approx(tuple(np.quantile(shared, [0.025, 0.975])))


def test_both_together():
    """By hand from its two parts; what all seeds share of the influence of the images is told apart."""
    generator = np.random.default_rng(1)
    point = np.array([0.01, 0.03, 0.02])
    own = point[:, None] + generator.normal(0, 0.01, (3, 20_000))
    found = interval(point, own)
    assert found.image_std == pytest.approx(0.01 / math.sqrt(3), rel=0.05)
    assert found.shared_image_std < 0.002
    assert found.seeds_half_width == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert found.half_width == pytest.approx(
        math.hypot(found.seeds_half_width, 1.959964 * found.image_std), rel=1e-6
    )
    # The luck of single runs is in both parts: at most that much too wide.
    assert found.half_width / found.seeds_half_width == pytest.approx(math.hypot(1, 1.96 / 4.303), rel=0.01)

    both = interval(point, own + generator.normal(0, 0.02, 20_000))
    assert both.shared_image_std == pytest.approx(0.02, rel=0.05)
    assert both.image_std == pytest.approx(math.hypot(0.02, 0.01 / math.sqrt(3)), rel=0.05)


def test_one_seed_says_nothing_about_seeds():
    found = interval(*constant([0.2]))
    assert found.half_width is found.std_over_seeds is found.seeds_half_width is None
    assert not found.distinguishable
    assert found.to_dict()["low"] is None
    assert found.to_dict()["images"]["percentile_low"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.010, 0.011, 0.012], True),
        ([-0.010, -0.011, -0.012], True),
        ([0.00, 0.01, 0.02], False),
        ([0.010, 0.011], False),  # two seeds, however alike
        ([0.0, 0.0, 0.0], False),
        ([1e-17, 1e-17, 1e-17], False),  # what is left of 0 after rounding
    ],
)
def test_verdicts(values, expected):
    assert interval(*constant(values)).distinguishable is expected


def test_both_sides_of_a_verdict():
    """The three differences d - h, d, d + h have the half width 4.302653 / sqrt(3) * h: 0 is left out below that."""
    ratio = 4.302652729911275 / math.sqrt(3)
    for factor, expected in ((1 + 1e-6, True), (1 - 1e-6, False)):
        d, h = ratio * factor * 0.01, 0.01
        assert interval(*constant([d - h, d, d + h])).distinguishable is expected
    assert FEWEST_SEEDS == 3


def test_the_joint_bootstrap_draws_seeds_too():
    found = interval(*constant([0.0, 0.1], num_resamples=2000))
    assert (found.joint_low, found.joint_high) == pytest.approx((0, 0.1))
    assert (found.images_low, found.images_high) == pytest.approx((0.05, 0.05))


def test_resamples_without_a_value_are_left_out():
    point, resampled = constant([0.1, 0.2, 0.4])
    holes = resampled.copy()
    holes[1, ::2] = np.nan
    assert interval(point, holes) == interval(point, resampled[:, 1::2])
    assert interval(point, np.full((3, 5), np.nan)) is None
    assert interval(np.array([0.1, np.nan, 0.1]), resampled) is None


def test_the_same_seed_gives_the_same_interval():
    generator = np.random.default_rng(0)
    point, resampled = generator.normal(size=3), generator.normal(size=(3, 100))
    assert interval(point, resampled, seed=5) == interval(point, resampled, seed=5)
    assert interval(point, resampled, seed=5) != interval(point, resampled, seed=6)


# ---- resampling ----------------------------------------------------------------------------------------------------


def test_draws():
    counts = draw_images(30, 200, 0)
    assert counts.shape == (30, 200)
    assert (counts.sum(axis=0) == 30).all()
    np.testing.assert_array_equal(counts, draw_images(30, 200, 0))
    assert (counts != draw_images(30, 200, 1)).any()
    assert counts.mean(axis=1) == pytest.approx(np.ones(30), abs=0.35)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)


def detector(seed, quality, num_images=15):
    """Two classes on the same ground truth, found more or less well; the second class is in one image alone."""
    truth_of = np.random.default_rng(0)
    generator = np.random.default_rng(seed)
    truth, found = {}, {}
    for name, images in (("cat", np.arange(num_images)), ("dog", np.array([3]))):
        boxes = truth_of.uniform(0, 50, (len(images), 4))
        boxes[:, 2:] = boxes[:, :2] + 20
        truth[name] = GroundTruth(images, boxes, np.zeros(len(images), bool))
        shifted = boxes + generator.normal(0, quality, boxes.shape)
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2])
        found[name] = Detections(images, shifted, generator.random(len(images)))
    return EvaluationSet(("cat", "dog"), [f"image{i}" for i in range(num_images)], truth, found)


def test_detections_against_a_slow_loop():
    runs = [[detector(1, 3), detector(2, 3)], [detector(3, 6), detector(4, 6)]]
    counts = draw_images(15, 6, 0)
    found = resample_detections(runs, counts)
    for metric in ("map_11point", "map_area"):
        assert found[metric].names == ("mean", "cat", "dog")
        for arm, row in enumerate(runs):
            for place, run in enumerate(row):
                whole = evaluate_voc(run.ground_truth, run.detections, run.class_names)
                assert found[metric].point[arm, place, 0] == pytest.approx(getattr(whole, metric), abs=1e-12)
                for column in range(6):
                    expected = getattr(_resampled(run, counts[:, column]), metric)
                    assert found[metric].resampled[arm, place, 0, column] == pytest.approx(
                        expected, abs=1e-12
                    )
    # Where image 3 is not drawn there is no dog, and the mean is over cats alone.
    absent = counts[3] == 0
    assert absent.any()
    assert np.isnan(found["map_area"].resampled[0, 0, 2, absent]).all()
    assert not np.isnan(found["map_area"].resampled[0, 0, 0]).any()


def _resampled(run, counts):
    drawn = np.repeat(np.arange(len(counts)), counts)

    def pick(rows):
        return np.concatenate([np.flatnonzero(rows.image_index == image) for image in drawn]).astype(int)

    def new_index(rows):
        sizes = [int((rows.image_index == image).sum()) for image in drawn]
        return np.repeat(np.arange(len(drawn)), sizes)

    truth = {
        name: GroundTruth(new_index(t), t.boxes[pick(t)], t.difficult[pick(t)])
        for name, t in run.ground_truth.items()
    }
    found = {
        name: Detections(new_index(d), d.boxes[pick(d)], d.scores[pick(d)])
        for name, d in run.detections.items()
    }
    return evaluate_voc(truth, found, run.class_names)


def test_accuracy_against_a_slow_loop():
    generator = np.random.default_rng(0)
    correct = generator.random((2, 3, 20)) < 0.6
    labels = np.arange(20) % 3
    counts = draw_images(20, 5, 1)
    found = resample_accuracy(correct, labels, ["a", "b", "c"], counts)
    assert found.names == ("all", "a", "b", "c")
    for column in range(5):
        drawn = np.repeat(np.arange(20), counts[:, column])
        assert found.resampled[1, 2, 0, column] == pytest.approx(correct[1, 2, drawn].mean())
        of_b = drawn[labels[drawn] == 1]
        assert found.resampled[1, 2, 2, column] == pytest.approx(correct[1, 2, of_b].mean())
    assert found.point[0, 0, 0] == pytest.approx(correct[0, 0].mean())


def test_contrasts_of_arms():
    point = np.array([0.1, 0.2, 0.4, 0.8]).reshape(4, 1, 1)
    resampled = Resampled(("all",), point, np.repeat(point[..., None], 3, axis=3))
    values, drawn = resampled.contrast([1, -1, -1, 1])
    assert values == pytest.approx([0.8 - 0.4 - 0.2 + 0.1])
    assert drawn.shape == (1, 3)
    # An arm that takes no part may be without a value.
    point[3] = np.nan
    assert resampled.contrast([-1, 1, 0, 0])[0] == pytest.approx([0.1])
