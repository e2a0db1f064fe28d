"""The SOSR loss against an independent per-sample reference, hand-worked cases and its invariances."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sosr_det.losses import SOSRLoss, is_overconfident, sosr_penalty


def reference_penalty(logits, target, threshold, detach):
    """Eq. (1) word for word: copy the output, edit over-confident rows, mean squared error."""
    num_samples, num_classes = logits.shape
    desired_rows = []
    for sample in range(num_samples):
        row = logits[sample]
        exponentials = [math.exp(v - max(row.tolist())) for v in row.tolist()]
        probabilities = [e / sum(exponentials) for e in exponentials]
        best = max(range(num_classes), key=probabilities.__getitem__)
        label = int(target[sample])
        if best == label and probabilities[best] > threshold:
            others = [row[k] for k in range(num_classes) if k != label]
            mean = sum(others) / len(others)
            desired_rows.append(torch.stack([row[k] if k == label else mean for k in range(num_classes)]))
        else:
            desired_rows.append(row)
    desired = torch.stack(desired_rows)
    if detach:
        desired = desired.detach()
    return ((desired - logits) ** 2).sum() / (num_samples * num_classes)


def random_case(num_samples=12, num_classes=7, seed=0, dtype=torch.float64):
    """Logits of which about half are confident and right, some confident and wrong, some unsure."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    for sample in range(num_samples):
        if sample % 2 == 0:
            logits[sample, target[sample]] += 12
        elif sample % 3 == 0:
            logits[sample, (target[sample] + 1) % num_classes] += 12
    return logits.to(dtype), target


@pytest.mark.parametrize("detach", [True, False])
def test_value_and_gradient_equal_the_literal_reference(detach):
    # Both ways of reading the paper (desired output detached or not) have the same gradient,
    # because replacing values by their mean is an idempotent, symmetric projection.
    logits, target = random_case()
    ours = logits.clone().requires_grad_()
    literal = logits.clone().requires_grad_()
    value = sosr_penalty(ours, target, threshold=0.9)
    expected = reference_penalty(literal, target, 0.9, detach)
    value.backward()
    expected.backward()
    assert value.item() > 0
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, literal.grad, rtol=1e-10, atol=1e-14)
    assert ours.grad.abs().sum() > 0


def test_hand_worked_case():
    # One over-confident sample: incorrect logits 0, 3 -> mean 1.5 -> 2 * 1.5^2 = 4.5.
    # One unsure sample contributes nothing. Divided by M * K = 2 * 3.
    logits = torch.tensor([[20.0, 0.0, 3.0], [1.0, 0.0, 0.5]])
    assert sosr_penalty(logits, torch.tensor([0, 0])).item() == pytest.approx(4.5 / 6, rel=1e-6)


@pytest.mark.parametrize(("probability", "selected"), [(0.9899, False), (0.9901, True)])
def test_threshold_both_sides(probability, selected):
    # p on the right class, the rest split 2:1 so that the penalty cannot vanish by symmetry.
    rest = 1 - probability
    logits = torch.tensor([[probability, rest * 2 / 3, rest / 3]], dtype=torch.float64).log()
    target = torch.tensor([0])
    assert is_overconfident(logits, target).tolist() == [selected]
    assert (sosr_penalty(logits, target).item() > 0) is selected


def test_probability_equal_to_the_threshold_is_not_over_confident():
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    probability = logits.softmax(1).max().item()
    assert not is_overconfident(logits, torch.tensor([0]), threshold=probability).any()
    below = math.nextafter(probability, 0)
    assert is_overconfident(logits, torch.tensor([0]), threshold=below).all()


def test_confident_but_wrong_is_left_alone():
    logits = torch.tensor([[0.0, 20.0, 3.0]], requires_grad=True)
    penalty = sosr_penalty(logits, torch.tensor([0]))
    penalty.backward()
    assert penalty.item() == 0
    assert logits.grad.abs().max() == 0


def test_gradcheck():
    logits, target = random_case(num_samples=6, num_classes=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sosr_penalty(x, target, 0.9), (logits,))
    assert torch.autograd.gradcheck(lambda x: SOSRLoss(0.9, 0.7)(x, target), (logits,))


def test_gradient_is_zero_on_expected_logits_and_unselected_samples():
    logits, target = random_case(num_samples=40)
    logits.requires_grad_()
    sosr_penalty(logits, target, 0.9).backward()
    selected = is_overconfident(logits, target, 0.9)
    assert 0 < selected.sum() < len(target)
    assert logits.grad[~selected].abs().max() == 0
    assert logits.grad.gather(1, target[:, None]).abs().max() == 0
    # Negative control: the incorrect logits of selected samples do get a gradient.
    assert (logits.grad[selected].abs().sum(1) > 0).all()


def test_invariances():
    logits, target = random_case(num_samples=20)
    base = sosr_penalty(logits, target, 0.9)
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(1))
    permuted = sosr_penalty(logits[:, order], order.argsort()[target], 0.9)
    torch.testing.assert_close(permuted, base, rtol=1e-12, atol=0)
    torch.testing.assert_close(sosr_penalty(logits + 37.5, target, 0.9), base, rtol=1e-10, atol=0)
    # Dividing by the whole batch: doubling the batch with its own copy changes nothing.
    doubled = sosr_penalty(logits.repeat(2, 1), target.repeat(2), 0.9)
    torch.testing.assert_close(doubled, base, rtol=1e-12, atol=0)


def test_large_common_offset_keeps_float32_digits():
    logits, target = random_case(num_samples=20, dtype=torch.float32)
    shifted = (logits.double() + 4096).float()  # the rounding of the input itself is part of the tolerance
    torch.testing.assert_close(
        sosr_penalty(shifted, target, 0.9), sosr_penalty(logits, target, 0.9), rtol=2e-3, atol=0
    )


def test_two_classes_leave_nothing_to_smooth():
    logits = torch.tensor([[30.0, 0.1], [0.3, 25.7]], requires_grad=True)
    penalty = sosr_penalty(logits, torch.tensor([0, 1]))
    penalty.backward()
    assert penalty.item() == 0
    assert logits.grad.abs().max() == 0


def test_empty_batch_is_zero_and_differentiable():
    logits = torch.zeros(0, 5, requires_grad=True)
    target = torch.zeros(0, dtype=torch.long)
    for value in (sosr_penalty(logits, target), SOSRLoss()(logits, target)):
        assert value.item() == 0
        value.backward()


@settings(max_examples=40, deadline=None)
@given(
    num_samples=st.integers(1, 9),
    num_classes=st.integers(2, 11),
    seed=st.integers(0, 10_000),
    threshold=st.floats(0.05, 0.999),
)
def test_random_cases_equal_the_reference(num_samples, num_classes, seed, threshold):
    logits, target = random_case(num_samples, num_classes, seed)
    expected = reference_penalty(logits, target, threshold, detach=True)
    torch.testing.assert_close(sosr_penalty(logits, target, threshold), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_are_computed_in_fp32(dtype):
    logits, target = random_case(dtype=dtype)
    value = sosr_penalty(logits, target, 0.9)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, sosr_penalty(logits.float(), target, 0.9), rtol=0, atol=0)


def test_autocast_does_not_change_the_value():
    logits, target = random_case(dtype=torch.float32)
    outside = SOSRLoss(0.9)(logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = SOSRLoss(0.9)(logits, target)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_loss_is_cross_entropy_plus_weighted_penalty():
    logits, target = random_case()
    cross_entropy = F.cross_entropy(logits, target)
    penalty = sosr_penalty(logits, target, 0.9)
    for weight in (0.0, 0.5, 1.0, 3.0):
        terms = SOSRLoss(0.9, weight).terms(logits, target)
        torch.testing.assert_close(terms.loss_base, cross_entropy)
        torch.testing.assert_close(terms.loss_sosr, weight * penalty)
        torch.testing.assert_close(SOSRLoss(0.9, weight)(logits, target), cross_entropy + weight * penalty)
    assert terms.overconfident_fraction.item() == is_overconfident(logits, target, 0.9).double().mean()


def test_defaults_are_the_papers():
    loss = SOSRLoss()
    assert (loss.threshold, loss.weight) == (0.99, 0.5)


def test_compiles_without_graph_breaks():
    logits, target = random_case(dtype=torch.float32)
    compiled = torch.compile(SOSRLoss(0.9), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), SOSRLoss(0.9)(logits, target))


@pytest.mark.parametrize(
    ("logits", "target", "named"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"\[M, K\]"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "K >= 2"),
        (torch.zeros(3, 4), torch.zeros(2, dtype=torch.long), r"\[3\]"),
        (torch.zeros(3, 4), torch.zeros(3), "int64"),
        (torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, dtype=torch.long), "floating"),
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), "got 4"),
        (torch.zeros(3, 4), torch.tensor([0, -1, 1]), "got -1"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), "nan at sample 0, class 1"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]), torch.tensor([0, 0]), "inf at sample 1, class 0"),
    ],
)
def test_bad_tensors_are_named(logits, target, named):
    with pytest.raises(ValueError, match=named):
        sosr_penalty(logits, target)
    with pytest.raises(ValueError, match=named):
        SOSRLoss()(logits, target)


def test_finite_logits_whose_sum_overflows_are_accepted():
    logits = torch.tensor([[3e38, 3e38, 0.0]])
    assert torch.isfinite(SOSRLoss()(logits, torch.tensor([2])))


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        SOSRLoss(threshold=threshold)
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        sosr_penalty(torch.zeros(1, 2), torch.tensor([0]), threshold)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_bad_weight(weight):
    with pytest.raises(ValueError, match="beta"):
        SOSRLoss(weight=weight)
