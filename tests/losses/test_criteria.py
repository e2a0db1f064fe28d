"""Base criteria against torch, slow loops and hand-worked cases, alone and under SOSR."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sosr_det.losses import (
    ConfidencePenalty,
    CosineSchedule,
    CrossEntropy,
    LinearSchedule,
    OnlineLabelSmoothing,
    SOSRLoss,
    is_overconfident,
    sosr_penalty,
)


def bases(num_classes=7):
    return [
        CrossEntropy(),
        CrossEntropy(label_smoothing=0.1),
        ConfidencePenalty(0.1),
        OnlineLabelSmoothing(num_classes),
    ]


def as_soft(target, num_classes):
    if isinstance(target, tuple):
        y_a, y_b, lam = target
        lam = torch.as_tensor(lam, dtype=torch.float64).reshape(-1, 1)
        return lam * F.one_hot(y_a, num_classes) + (1 - lam) * F.one_hot(y_b, num_classes)
    return target if target.is_floating_point() else F.one_hot(target, num_classes).double()


def test_cross_entropy_is_torchs(kind, make_case):
    logits, target = make_case(kind)
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, as_soft(target, 7), label_smoothing=smoothing)
        torch.testing.assert_close(CrossEntropy(smoothing)(logits, target), expected, rtol=1e-12, atol=0)


def test_label_smoothing_hand_worked():
    # K = 2, uniform prediction: every label costs ln 2, smoothed or not.
    assert CrossEntropy(0.1)(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(2))
    # p = (0.8, 0.2), label 0, epsilon 0.1: -(0.95 ln 0.8 + 0.05 ln 0.2).
    logits = torch.tensor([[0.8, 0.2]]).log()
    expected = -(0.95 * math.log(0.8) + 0.05 * math.log(0.2))
    assert CrossEntropy(0.1)(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)


def test_confidence_penalty(kind, make_case):
    logits, target = make_case(kind)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    expected = F.cross_entropy(logits, as_soft(target, 7)) - 0.1 * entropy
    torch.testing.assert_close(ConfidencePenalty(0.1)(logits, target), expected, rtol=1e-12, atol=0)
    # Uniform over 4 classes: CE = entropy = ln 4, so the loss is 0.9 ln 4.
    value = ConfidencePenalty(0.1)(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    assert value.item() == pytest.approx(0.9 * math.log(4), rel=1e-6)


def test_gradients_of_the_criteria(kind, make_case):
    logits, target = make_case(kind, num_samples=5, num_classes=5)
    logits.requires_grad_()
    for base in bases(5):
        base = base.double().eval()
        assert torch.autograd.gradcheck(lambda x, base=base: base(x, target), (logits,))


def test_online_label_smoothing_follows_the_slow_loop():
    torch.manual_seed(0)
    criterion = OnlineLabelSmoothing(4, hard_weight=0.5)
    soft = torch.full((4, 4), 0.25)
    for _ in range(3):
        sums, counts = torch.zeros(4, 4), torch.zeros(4)
        for _ in range(5):
            logits, target = 3 * torch.randn(6, 4), torch.randint(3, (6,))  # class 3 never occurs
            log_p = logits.log_softmax(1)
            expected = torch.stack(
                [
                    -0.5 * log_p[i, target[i]] - 0.5 * sum(soft[target[i], k] * log_p[i, k] for k in range(4))
                    for i in range(6)
                ]
            ).mean()
            torch.testing.assert_close(criterion(logits, target), expected)
            for i in range(6):
                if int(log_p[i].argmax()) == int(target[i]):
                    sums[target[i]] += log_p[i].exp()
                    counts[target[i]] += 1
        criterion.next_epoch()
        soft = torch.stack([sums[k] / counts[k] if counts[k] else soft[k] for k in range(4)])
        torch.testing.assert_close(criterion.soft_labels, soft)
        torch.testing.assert_close(criterion.soft_labels.sum(1), torch.ones(4))
    assert (criterion.soft_labels[3] == 0.25).all()
    assert not torch.allclose(criterion.soft_labels[0], torch.full((4,), 0.25))  # it has learnt something


def test_online_label_smoothing_gathers_only_while_training_on_plain_labels():
    criterion = OnlineLabelSmoothing(3)
    logits, target = torch.eye(3) * 9, torch.arange(3)
    criterion.eval()(logits, target)
    criterion.train()(logits, (target, target.roll(1), 0.5))
    criterion(logits, torch.eye(3))
    assert criterion.prediction_counts.sum() == 0
    criterion(logits, target)
    assert criterion.prediction_counts.tolist() == [1, 1, 1]
    assert not criterion.soft_labels.requires_grad
    # Its state is part of a checkpoint.
    restored = OnlineLabelSmoothing(3)
    restored.load_state_dict(criterion.state_dict())
    assert restored.prediction_counts.tolist() == [1, 1, 1]


def test_an_epoch_of_mixed_batches_only_is_said():
    criterion = OnlineLabelSmoothing(3)
    criterion(torch.eye(3) * 9, (torch.arange(3), torch.arange(3).roll(1), 0.5))
    with pytest.warns(UserWarning, match="Is every batch mixed"):
        criterion.next_epoch()
    assert (criterion.soft_labels == torch.tensor(1 / 3)).all()


def test_mixed_labels_of_online_label_smoothing_mix_the_soft_labels(make_case):
    logits, (y_a, y_b, lam) = make_case("mixed")
    criterion = OnlineLabelSmoothing(7).double()
    criterion.soft_labels.copy_(torch.rand(7, 7, dtype=torch.float64).softmax(1))
    whole = criterion(logits, (y_a, y_b, lam))
    parts = lam * criterion(logits, (y_a, y_a, 1.0)) + (1 - lam) * criterion(logits, (y_b, y_b, 1.0))
    torch.testing.assert_close(whole, parts)


def test_sosr_on_every_base(kind, make_case):
    logits, target = make_case(kind)
    for base in bases():
        base = base.double().eval()
        terms = SOSRLoss(0.9, 0.7, base=base).terms(logits, target)
        torch.testing.assert_close(terms.loss_base, base(logits, target), rtol=1e-12, atol=0)
        # The label set decides, not what the base makes of it.
        assert terms.overconfident_fraction == is_overconfident(logits, target, 0.9).double().mean() > 0
        torch.testing.assert_close(
            terms.loss_sosr, 0.7 * sosr_penalty(logits, target, 0.9), rtol=1e-9, atol=0
        )


def test_foreign_base_gets_what_torchs_losses_take(kind, make_case):
    logits, target = make_case(kind)
    ours = SOSRLoss(0.9, 0.7, base=nn.CrossEntropyLoss(label_smoothing=0.1))(logits, target)
    twin = SOSRLoss(0.9, 0.7, base=CrossEntropy(label_smoothing=0.1))(logits, target)
    torch.testing.assert_close(ours, twin, rtol=1e-12, atol=0)


def test_online_label_smoothing_under_sosr_keeps_its_buffers_in_the_state_dict():
    loss = SOSRLoss(base=OnlineLabelSmoothing(3))
    assert "base.soft_labels" in loss.state_dict()
    with pytest.raises(ValueError, match="3 classes, the logits have 4"):
        loss(torch.zeros(1, 4), torch.tensor([0]))


def test_schedules_by_hand():
    linear = LinearSchedule(0.0, 1.0, 10, 20)
    assert [linear(e) for e in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    cosine = CosineSchedule(1.0, 0.0, 0, 4)
    assert [round(cosine(e), 6) for e in (0, 1, 2, 4, 5)] == [1, 0.853553, 0.5, 0, 0]


def test_default_is_constant_and_scheduled_values_follow_the_epoch():
    loss = SOSRLoss()
    for epoch in (0, 5, 300):
        loss.set_epoch(epoch)
        assert (loss.threshold, loss.weight) == (0.99, 0.5)
    loss = SOSRLoss(LinearSchedule(0.9, 0.99, 0, 9), LinearSchedule(0.0, 0.5, 0, 10), start_epoch=4)
    seen = []
    for epoch in (0, 3, 4, 9, 20):
        loss.set_epoch(epoch)
        seen.append((round(loss.threshold, 6), round(loss.weight, 6)))
    assert seen == [(0.9, 0), (0.93, 0), (0.94, 0.2), (0.99, 0.45), (0.99, 0.5)]


def test_before_the_start_epoch_the_loss_is_its_base(make_case):
    logits, target = make_case("indices")
    loss = SOSRLoss(0.9, start_epoch=2)
    torch.testing.assert_close(loss(logits, target), F.cross_entropy(logits, target))
    loss.set_epoch(2)
    assert loss(logits, target) > F.cross_entropy(logits, target)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CrossEntropy(1.0), r"label_smoothing must lie in \[0, 1\), got 1.0"),
        (lambda: CrossEntropy(-0.1), "label_smoothing"),
        (lambda: ConfidencePenalty(-1), "beta"),
        (lambda: OnlineLabelSmoothing(1), "at least 2"),
        (lambda: OnlineLabelSmoothing(5, 1.5), "hard_weight"),
        (lambda: LinearSchedule(0, 1, 5, 5), "begin_epoch < end_epoch"),
        (lambda: LinearSchedule(0, math.inf, 0, 5), "finite"),
        (lambda: SOSRLoss(start_epoch=-1), "start_epoch"),
        (lambda: SOSRLoss(base="ce"), "criterion module"),
        (lambda: SOSRLoss(threshold=LinearSchedule(1.0, 0.5, 0, 5)), r"inside \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings(make, named):
    with pytest.raises(ValueError, match=named):
        make()
