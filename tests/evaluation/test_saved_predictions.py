"""predictions.npz: what the classification metric leaves, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sosr_det.errors import DataError
from sosr_det.evaluation.classification import ClassificationMetric
from sosr_det.evaluation.saved_predictions import Predictions, read_predictions, write_predictions


def evaluated(path, names=None):
    metric = ClassificationMetric(topk=(1,), save_to=str(path))
    metric.dataset_meta = {"classes": ("cat", "dog", "cow")}
    metric.image_names = names
    for scores, label in (([0.2, 0.5, 0.3], 1), ([0.4, 0.4, 0.2], 1), ([0.1, 0.1, 0.8], 2)):
        metric.process(None, [{"scores": torch.tensor(scores), "label": label}])
    return metric.evaluate(3)


def test_what_a_test_leaves(tmp_path):
    metrics = evaluated(tmp_path / "deep" / "predictions.npz", ["a.jpg", "b.jpg", "c.jpg"])
    saved = read_predictions(tmp_path / "deep")
    assert saved.image_ids == ("a.jpg", "b.jpg", "c.jpg")
    assert saved.class_names == ("cat", "dog", "cow")
    assert saved.label.tolist() == [1, 1, 2]
    assert saved.predicted.tolist() == [1, 0, 2]  # of equal scores the first class
    assert saved.correct.tolist() == [True, False, True]
    assert metrics["accuracy/top1"] == pytest.approx(100 * saved.correct.mean())


def test_images_without_names_are_numbered(tmp_path):
    evaluated(tmp_path / "predictions.npz")
    assert read_predictions(tmp_path).image_ids == ("0", "1", "2")


def test_a_test_that_did_not_see_all_images_saves_nothing(tmp_path):
    with pytest.raises(ValueError, match="3 of the data set's 4 images"):
        evaluated(tmp_path / "predictions.npz", list("abcd"))
    assert not list(tmp_path.iterdir())


def test_refused_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path)
    path = tmp_path / "predictions.npz"
    path.write_bytes(b"PK not really")
    with pytest.raises(DataError, match="not predictions"):
        read_predictions(path)
    np.savez(path, format=np.array("something else"))
    with pytest.raises(DataError, match="format"):
        read_predictions(path)
    np.savez(path, format=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not predictions"):
        read_predictions(path)
    good = Predictions(["a", "b"], [], [0, 1], [0, 0])
    write_predictions(path, good)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "correct": np.array([True, True])})
    with pytest.raises(DataError, match="correct"):
        read_predictions(path)


def test_refused_predictions():
    with pytest.raises(ValueError, match="more than once"):
        Predictions(["a", "a"], [], [0, 1], [0, 0])
    with pytest.raises(ValueError, match="predicted has shape"):
        Predictions(["a", "b"], [], [0, 1], [0])
