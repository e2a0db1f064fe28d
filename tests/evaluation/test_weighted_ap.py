"""AP with image multiplicities against the evaluator on images that really are there several times."""

from __future__ import annotations

import numpy as np
import pytest

from sosr_det.evaluation import weighted_ap as module
from sosr_det.evaluation.boxes import Detections, GroundTruth
from sosr_det.evaluation.voc_ap import evaluate_class
from sosr_det.evaluation.weighted_ap import rank_class, weighted_ap

NUM_IMAGES = 12


def random_class(generator, num_truth, num_found, score_levels):
    image = generator.integers(NUM_IMAGES, size=num_truth)
    boxes = generator.uniform(0, 60, (num_truth, 4))
    boxes[:, 2:] = boxes[:, :2] + generator.uniform(10, 40, (num_truth, 2))
    about = generator.integers(num_truth, size=num_found)
    found = boxes[about] + generator.normal(0, 6, (num_found, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    scores = np.round(generator.random(num_found) * score_levels) / score_levels  # with ties
    return (
        GroundTruth(image, boxes, generator.random(num_truth) < 0.2),
        Detections(image[about], found, scores),
    )


def repeated(truth, found, counts):
    """Every image as often as ``counts`` says, each copy as an image of its own; copies of a detection in a row."""
    first = np.concatenate([[0], np.cumsum(counts)])

    def copies(image_index):
        rows, images = [], []
        for row, image in enumerate(image_index):
            for copy in range(counts[image]):
                rows.append(row)
                images.append(first[image] + copy)
        return np.array(rows, int), np.array(images, int)

    rows, images = copies(truth.image_index)
    more_truth = GroundTruth(images, truth.boxes[rows], truth.difficult[rows])
    rows, images = copies(found.image_index)
    return more_truth, Detections(images, found.boxes[rows], found.scores[rows])


@pytest.mark.parametrize("score_levels", [2, 10, 10**9])
def test_as_if_images_were_really_repeated(score_levels):
    generator = np.random.default_rng(score_levels)
    for _ in range(30):
        truth, found = random_class(
            generator, generator.integers(1, 30), generator.integers(1, 80), score_levels
        )
        counts = generator.multinomial(NUM_IMAGES, np.full(NUM_IMAGES, 1 / NUM_IMAGES), size=4).astype(
            np.int32
        )
        eleven, area = weighted_ap(rank_class(truth, found), counts.T)
        for column, row in enumerate(counts):
            expected = evaluate_class(*repeated(truth, found, row))
            assert eleven[column] == pytest.approx(expected.ap_11point, abs=1e-12, nan_ok=True)
            assert area[column] == pytest.approx(expected.ap_area, abs=1e-12, nan_ok=True)


def test_every_image_once_is_the_evaluator_itself():
    truth, found = random_class(np.random.default_rng(0), 40, 200, 50)
    expected = evaluate_class(truth, found)
    eleven, area = weighted_ap(rank_class(truth, found), np.ones((NUM_IMAGES, 1), np.int32))
    assert (eleven[0], area[0]) == (expected.ap_11point, expected.ap_area)


def test_by_hand():
    """Image 0: a hit at 0.9. Image 1: a false alarm at 0.8 and a hit at 0.7. Counted 1 and 2 times."""
    box = [0, 0, 9, 9]
    truth = GroundTruth([0, 1], [box, box], [False, False])
    found = Detections([0, 1, 1], [box, [50, 50, 59, 59], box], [0.9, 0.8, 0.7])
    eleven, area = weighted_ap(rank_class(truth, found), np.array([[1], [2]], np.int32))
    # 3 ground truths; precision 1 at recall 1/3, then 3 of 5 at recall 1. Levels 0 to 0.3 see 1, the other seven 3/5.
    assert eleven[0] == pytest.approx((4 * 1 + 7 * 3 / 5) / 11)
    assert area[0] == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)


def test_a_resample_without_the_class_has_no_ap():
    box = [0, 0, 9, 9]
    truth, found = GroundTruth([0], [box], [False]), Detections([0, 1], [box, box], [0.5, 0.6])
    eleven, area = weighted_ap(rank_class(truth, found), np.array([[0, 1], [2, 1]], np.int32))
    assert np.isnan(eleven[0])
    assert np.isnan(area[0])
    assert (eleven[1], area[1]) == (0.5, 0.5)


def test_nothing_found_is_0():
    truth = GroundTruth([0], [[0, 0, 9, 9]], [False])
    eleven, area = weighted_ap(rank_class(truth, Detections.empty()), np.array([[1, 0]], np.int32))
    assert eleven[0] == area[0] == 0
    assert np.isnan(eleven[1])


def test_in_parts_as_in_one(monkeypatch):
    truth, found = random_class(np.random.default_rng(1), 20, 60, 5)
    counts = np.random.default_rng(2).integers(0, 4, (NUM_IMAGES, 37)).astype(np.int32)
    whole = weighted_ap(rank_class(truth, found), counts)
    monkeypatch.setattr(module, "_CELLS_PER_CHUNK", 1)
    for a, b in zip(whole, weighted_ap(rank_class(truth, found), counts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
