"""Accuracy, calibration error and likelihood against torchmetrics' own functions and hand-worked cases."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from sosr_det.evaluation import classification
from sosr_det.evaluation.classification import ClassificationMetric


def evaluate(scores, labels, batch_size=7, **options):
    metric = ClassificationMetric(**options)
    samples = [{"scores": s, "label": int(y)} for s, y in zip(scores, labels, strict=True)]
    for start in range(0, len(samples), batch_size):
        metric.process({}, samples[start : start + batch_size])
    return metric.evaluate(len(samples))


def random_case(num_samples=500, num_classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    logits = torch.randn(num_samples, num_classes, generator=generator) * 3
    logits[torch.arange(num_samples), labels] += 2
    return logits.softmax(dim=1), labels


def test_by_hand():
    scores = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.35, 0.4], [0.1, 0.1, 0.8]]
    scores = torch.tensor(scores, dtype=torch.float64)
    labels = [0, 2, 0, 2]  # ranks 0, 1, 2, 0
    metrics = evaluate(scores, labels, topk=(1, 2, 3), num_bins=2)
    assert metrics["accuracy/top1"] == 50.0
    assert metrics["accuracy/top2"] == 75.0
    assert metrics["accuracy/top3"] == 100.0
    # Bin [0, 0.5): confidence 0.4, wrong. Bin [0.5, 1): confidences 0.7, 0.6, 0.8, two of three right.
    assert metrics["accuracy/ece"] == pytest.approx(1 / 4 * 0.4 + 3 / 4 * abs(2 / 3 - 0.7), abs=1e-12)
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.25) + math.log(0.8)) / 4
    assert metrics["accuracy/nll"] == pytest.approx(expected, abs=1e-12)
    assert metrics["accuracy/num_samples"] == 4


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed):
    scores, labels = random_case(seed=seed)
    metrics = evaluate(scores, labels)
    for k in (1, 5):
        expected = multiclass_accuracy(scores, labels, num_classes=10, top_k=k, average="micro")
        assert metrics[f"accuracy/top{k}"] == pytest.approx(100 * expected.item(), abs=1e-4)
    expected = multiclass_calibration_error(scores.double(), labels, num_classes=10, n_bins=15, norm="l1")
    assert metrics["accuracy/ece"] == pytest.approx(expected.item(), abs=1e-6)  # float32 inside
    expected = torch.nn.functional.nll_loss(scores.double().log(), labels)
    assert metrics["accuracy/nll"] == pytest.approx(expected.item(), abs=1e-9)


def test_ece_equals_its_definition():
    scores, labels = random_case(seed=5)
    confidences, predictions = scores.double().max(dim=1)
    expected = 0.0
    for i in range(15):
        in_bin = (confidences >= i / 15) & (confidences < (i + 1) / 15)
        if in_bin.any():
            accuracy = (predictions == labels)[in_bin].double().mean()
            expected += (in_bin.double().mean() * (accuracy - confidences[in_bin].mean()).abs()).item()
    assert expected > 0.01
    assert evaluate(scores, labels)["accuracy/ece"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_batches_do_not_matter(batch_size):
    scores, labels = random_case()
    assert evaluate(scores, labels, batch_size=batch_size) == evaluate(scores, labels)


def test_equal_scores_rank_by_class_index_as_argmax():
    uniform = torch.full((4, 4), 0.25)
    metrics = evaluate(uniform, [0, 1, 2, 3], topk=(1, 2))
    assert metrics["accuracy/top1"] == 25.0  # not 100: a constant output is right by chance only
    assert metrics["accuracy/top2"] == 50.0
    # Coarse precision, many ties: still exactly argmax, and a stable sort for more.
    scores, labels = random_case(num_samples=300)
    scores = (scores * 8).round() / 8
    scores = scores / scores.sum(dim=1, keepdim=True)
    scores = scores[torch.isfinite(scores).all(dim=1)]
    labels = labels[: len(scores)]
    metrics = evaluate(scores, labels)
    assert metrics["accuracy/top1"] == pytest.approx(
        100 * (scores.argmax(dim=1) == labels).float().mean().item()
    )
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :5]
    assert metrics["accuracy/top5"] == pytest.approx(
        100 * (order == labels[:, None]).any(1).float().mean().item()
    )


def test_k_larger_than_the_number_of_classes_is_left_out():
    scores, labels = random_case(num_classes=4)
    assert set(evaluate(scores, labels)) == {f"accuracy/{m}" for m in ("top1", "ece", "nll", "num_samples")}
    scores, labels = random_case(num_classes=5)
    assert evaluate(scores, labels)["accuracy/top5"] == 100.0


def test_confidence_just_above_one_is_a_probability():
    """torchmetrics would take all values for logits and apply a sigmoid."""
    scores = torch.tensor([[1.0 + 1e-7, 0.0], [0.9, 0.1]], dtype=torch.float64)
    assert evaluate(scores, [0, 0])["accuracy/ece"] == pytest.approx(0.05, abs=1e-6)


def test_probability_zero_is_bounded_with_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr(classification, "print_log", lambda message, **_: messages.append(message))
    metrics = evaluate(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), [1, 0])
    assert metrics["accuracy/nll"] == pytest.approx((87.3365 + math.log(2)) / 2, abs=1e-3)
    assert len(messages) == 1
    assert "1 of 2 samples" in messages[0]


def test_objects_half_precision_and_config():
    evaluator = Evaluator([METRICS.build({"type": "ClassificationMetric", "topk": (1,), "prefix": "val"})])
    scores, labels = random_case(num_samples=20)
    samples = [SimpleNamespace(scores=s.half(), label=y) for s, y in zip(scores, labels, strict=True)]
    evaluator.metrics[0].process({}, samples)
    metrics = evaluator.evaluate(20)
    assert set(metrics) == {"val/top1", "val/ece", "val/nll", "val/num_samples"}


def test_little_is_kept_per_sample():
    metric = ClassificationMetric()
    metric.process({}, [{"scores": torch.full((1000,), 1e-3), "label": 3}])
    assert [tuple(map(type, r)) for r in metric.results] == [(int, float, float, int, int, int)]


@pytest.mark.parametrize(
    ("scores", "label", "message"),
    [
        ([0.5, math.nan], 0, r"sample 1 of the batch has values from nan"),
        ([2.0, -1.0], 0, r"must be softmax probabilities: sample 1 of the batch has values from -1 to 2"),
        ([0.5, 0.2], 0, r"with the sum 0.7"),
        ([0.5, 0.5], 2, r"label 2 of sample 1 of the batch is not in 0..1"),
        ([0.5, 0.5], -1, r"label -1 of sample 1"),
        ([0.2, 0.3, 0.5], 0, r"shape \[K\], K >= 2, the same in every sample; got \[\(2,\), \(3,\)\]"),
    ],
)
def test_unusable_samples(scores, label, message):
    good = {"scores": torch.tensor([0.5, 0.5]), "label": 0}
    with pytest.raises(ValueError, match=message):
        ClassificationMetric().process({}, [good, {"scores": torch.tensor(scores), "label": label}])


def test_unusable_options_and_no_samples():
    for topk in ((), (0,), 5, (1.5,)):
        with pytest.raises(ValueError, match="topk must be"):
            ClassificationMetric(topk=topk)
    with pytest.raises(ValueError, match="num_bins must be"):
        ClassificationMetric(num_bins=0)
    with pytest.raises(ValueError, match="no samples"):
        ClassificationMetric().evaluate(0)
    with pytest.raises(ValueError, match=r"different numbers of classes: \[2, 3\]"):
        ClassificationMetric().compute_metrics([(0, 0.9, 0.9, 2, 1, 1), (0, 0.9, 0.9, 3, 1, 1)])
