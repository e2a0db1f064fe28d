"""Every kind of target against the literal reference, and what each kind expects."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sosr_det.losses import (
    MixedTarget,
    OnlineLabelSmoothing,
    SOSRLoss,
    expected_classes,
    is_overconfident,
    sosr_penalty,
)


@pytest.mark.parametrize("detach", [True, False])
def test_value_and_gradient_equal_the_reference(kind, detach, make_case, reference):
    logits, target = make_case(kind)
    ours, literal = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = sosr_penalty(ours, target, 0.9)
    expected = reference.penalty(literal, target, 0.9, detach=detach)
    value.backward()
    expected.backward()
    assert value.item() > 0
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, literal.grad, rtol=1e-9, atol=1e-14)
    assert ours.grad.abs().sum() > 0  # a penalty that lost its gradient fails here


def test_selection_equals_the_reference(kind, make_case, reference):
    logits, target = make_case(kind, num_samples=40)
    for threshold in (0.05, 0.3, 0.9, 0.99):
        found = is_overconfident(logits, target, threshold).tolist()
        assert found == reference.selected(logits, target, threshold), threshold
    assert 0 < sum(found) < 40


def test_gradient_is_zero_at_expected_classes_and_unselected_samples(kind, make_case):
    logits, target = make_case(kind, num_samples=40)
    logits.requires_grad_()
    sosr_penalty(logits, target, 0.9).backward()
    selected = is_overconfident(logits, target, 0.9)
    expected = expected_classes(target, logits.shape[1])
    assert (logits.grad[~selected] == 0).all()
    assert (logits.grad[expected] == 0).all()
    assert (logits.grad[selected] != 0).any(dim=1).all()


def test_first_and_second_derivative(kind, make_case):
    logits, target = make_case(kind, num_samples=6, num_classes=5)
    logits.requires_grad_()
    for function in (lambda x: sosr_penalty(x, target, 0.9), lambda x: SOSRLoss(0.9, 0.7)(x, target)):
        assert torch.autograd.gradcheck(function, (logits,))
        assert torch.autograd.gradgradcheck(function, (logits,))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["indices", "mixed", "mixed per sample", "soft", "smoothed"]),
    num_samples=st.integers(1, 9),
    num_classes=st.integers(2, 11),
    seed=st.integers(0, 10_000),
    threshold=st.floats(0.05, 0.999),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_random_cases_equal_the_reference(
    make_case, reference, kind, num_samples, num_classes, seed, threshold, dtype
):
    logits, target = make_case(kind, num_samples, num_classes, seed, dtype)
    precise = logits if dtype == torch.float64 else logits.float()
    expected = reference.penalty(precise, target, threshold, detach=True)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(
        sosr_penalty(logits, target, threshold), expected, rtol=tolerance, atol=tolerance
    )


def test_the_same_mix_in_three_notations_is_the_same(make_case):
    logits, (y_a, y_b, lam) = make_case("mixed")
    _, soft = make_case("soft")
    _, smoothed = make_case("smoothed")
    base = sosr_penalty(logits, MixedTarget(y_a, y_b, lam), 0.9)
    for target in ((y_a, y_b, torch.tensor(lam)), (y_a, y_b, torch.full((12,), lam)), soft, smoothed):
        torch.testing.assert_close(sosr_penalty(logits, target, 0.9), base, rtol=1e-12, atol=0)
    plain = SOSRLoss(0.9, 0.5)
    torch.testing.assert_close(plain(logits, (y_a, y_b, lam)), plain(logits, soft), rtol=1e-12, atol=0)


def test_hand_worked_mix():
    # Labels 0 and 1 hold 0.497 each: alone below P, together above it. Incorrect: 1 and 4 -> mean 2.5 -> 4.5; M K = 4.
    logits = torch.tensor([[12.0, 12.0, 1.0, 4.0]])
    pair = (torch.tensor([0]), torch.tensor([1]), 0.5)
    assert sosr_penalty(logits, pair).item() == pytest.approx(4.5 / 4, rel=1e-6)
    assert sosr_penalty(logits, torch.tensor([0])).item() == 0


@pytest.mark.parametrize(("share", "selected"), [(0.9899, False), (0.9901, True)])
def test_sum_of_both_probabilities_on_both_sides_of_the_threshold(share, selected):
    rest = 1 - share
    probabilities = [share * 0.6, share * 0.4, rest * 2 / 3, rest / 3]
    logits = torch.tensor([probabilities], dtype=torch.float64).log()
    pair = (torch.tensor([0]), torch.tensor([1]), 0.6)
    assert is_overconfident(logits, pair).tolist() == [selected]
    assert (sosr_penalty(logits, pair).item() > 0) is selected


def test_equal_labels_count_once(make_case):
    logits, (y_a, _, lam) = make_case("mixed")
    same = (y_a, y_a.clone(), lam)
    torch.testing.assert_close(sosr_penalty(logits, same, 0.9), sosr_penalty(logits, y_a, 0.9))
    # p = 0.6 on the label: counted twice it would be 1.2 > P.
    unsure = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert not is_overconfident(unsure, (torch.tensor([0]), torch.tensor([0]), 0.5), 0.9).any()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_label_without_a_share_is_not_expected(make_case, as_tensor):
    logits, (y_a, y_b, _) = make_case("mixed")
    for lam, only in ((1.0, y_a), (0.0, y_b)):
        share = torch.tensor(lam) if as_tensor else lam
        torch.testing.assert_close(
            sosr_penalty(logits, (y_a, y_b, share), 0.9), sosr_penalty(logits, only, 0.9)
        )


def test_expected_classes():
    rows = expected_classes((torch.tensor([0, 2]), torch.tensor([1, 2]), 0.4), 4)
    assert rows.tolist() == [[True, True, False, False], [False, False, True, False]]
    smoothed = torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.475, 0.475, 0.025]])
    assert expected_classes(smoothed, 4).tolist() == [
        [True, False, False, False],
        [False, True, True, False],
    ]
    assert expected_classes(torch.tensor([[0.7, 0.3], [1.0, 0.0]]), 2).tolist() == [
        [True, True],
        [True, False],
    ]
    assert expected_classes(torch.tensor([1]), 3).tolist() == [[False, True, False]]


def test_timms_and_torchvisions_mixes_expect_their_two_labels():
    from torchvision.transforms import v2

    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 2])
    _, soft = v2.CutMix(num_classes=5)(torch.rand(4, 3, 8, 8), labels)
    for row, other in enumerate(labels.roll(1)):
        wanted = {int(labels[row]), int(other)} if 0 < float(soft[row, labels[row]]) < 1 else None
        if wanted:
            assert set(expected_classes(soft, 5)[row].nonzero().flatten().tolist()) == wanted
    timm_mixup = pytest.importorskip("timm.data.mixup")
    soft = timm_mixup.mixup_target(labels, 5, lam=0.3, smoothing=0.1)
    found = expected_classes(soft, 5)
    assert [set(r.nonzero().flatten().tolist()) for r in found] == [{0, 2}, {1, 2}, {1, 2}, {0, 2}]


def test_k_minus_one_expected_classes_contribute_exactly_zero():
    # Many rows: the mean of one number is that number only up to rounding, unless it is left out.
    torch.manual_seed(0)
    logits = torch.randn(64, 3) * 3
    logits[:, :2] += 30
    logits.requires_grad_()
    y_b = torch.ones(64, dtype=torch.long)
    y_b[-1] = 0  # one label in truth, so two incorrect classes are left
    pair = (torch.zeros(64, dtype=torch.long), y_b, 0.5)
    assert is_overconfident(logits, pair, 0.9)[:-1].all()
    sosr_penalty(logits, pair, 0.9).backward()
    assert (logits.grad[:-1] == 0).all()
    assert sosr_penalty(logits[:-1], tuple(t[:-1] if torch.is_tensor(t) else t for t in pair), 0.9) == 0


def test_two_classes_are_always_zero(kind, make_case):
    logits, target = make_case(kind, num_classes=2)
    logits.requires_grad_()
    value = sosr_penalty(logits, target, 0.5)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_permuting_the_classes_permutes_the_gradient(kind, make_case):
    logits, target = make_case(kind)
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    permuted_target = {
        "indices": lambda: place[target],
        "soft": lambda: target[:, order],
        "smoothed": lambda: target[:, order],
    }.get(kind, lambda: (place[target[0]], place[target[1]], target[2]))()
    a, b = logits.clone().requires_grad_(), logits[:, order].clone().requires_grad_()
    sosr_penalty(a, target, 0.9).backward()
    sosr_penalty(b, permuted_target, 0.9).backward()
    torch.testing.assert_close(b.grad, a.grad[:, order], rtol=1e-12, atol=1e-16)


def test_shift_invariance_and_linearity_in_beta(kind, make_case):
    logits, target = make_case(kind)
    base = sosr_penalty(logits, target, 0.9)
    offset = torch.linspace(-50, 50, 12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(sosr_penalty(logits + offset, target, 0.9), base, rtol=1e-9, atol=0)
    losses = [SOSRLoss(0.9, beta)(logits, target) for beta in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(losses[2] - losses[0], 2 * (losses[1] - losses[0]), rtol=1e-12, atol=0)
    torch.testing.assert_close(losses[2] - losses[0], base, rtol=1e-9, atol=0)


def test_empty_batch(kind, make_case):
    logits, target = make_case(kind, num_samples=1)
    logits = logits[:0].requires_grad_()
    target = tuple(t[:0] if torch.is_tensor(t) and t.dim() else t for t in target) if isinstance(
        target, tuple
    ) else target[:0]  # fmt: skip
    loss = SOSRLoss()
    terms = loss.terms(logits, target)
    assert [t.item() for t in terms] == [0, 0, 0]
    (loss(logits, target) + sosr_penalty(logits, target)).backward()
    assert is_overconfident(logits, target).shape == (0,)


def test_autocast_no_grad_and_channels_last(kind, make_case):
    _, target = make_case(kind)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 7)
    )
    images = torch.randn(12, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            logits = 40 * network(images)
            inside = SOSRLoss(0.5)(logits, target)
            base = OnlineLabelSmoothing(7).eval()  # its matrix product is what autocast would narrow
            base.soft_labels.copy_(torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).softmax(1))
            smoothed = SOSRLoss(0.5, base=base)(logits, target)
        assert logits.dtype == dtype
        assert inside.dtype == torch.float32
        torch.testing.assert_close(inside, SOSRLoss(0.5)(logits.float(), target), rtol=0, atol=0)
        inside.backward()
        torch.testing.assert_close(smoothed, SOSRLoss(0.5, base=base)(logits.float(), target), rtol=0, atol=0)
    with torch.no_grad():
        assert not SOSRLoss()(logits, target).requires_grad


def test_compiles_without_graph_breaks(kind, make_case):
    logits, target = make_case(kind, dtype=torch.float32)
    if kind in ("soft", "smoothed"):
        target = target.float()
    compiled = torch.compile(lambda x: SOSRLoss(0.9)(x, target), backend="aot_eager", fullgraph=True)
    eager_logits, logits = logits.clone().requires_grad_(), logits.requires_grad_()
    value, expected = compiled(logits), SOSRLoss(0.9)(eager_logits, target)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, eager_logits.grad)


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop"
)  # torch has no batching rule for one of our steps
def test_per_sample_gradients_with_torch_func(make_case):
    logits, target = make_case("indices")
    loss = SOSRLoss(0.9, 0.7, validate=False)
    whole = torch.func.grad(lambda x: loss(x, target))(logits)
    plain = logits.clone().requires_grad_()
    loss(plain, target).backward()
    torch.testing.assert_close(whole, plain.grad)
    each = torch.func.vmap(torch.func.grad(lambda x, y: loss(x[None], y[None])))(logits, target)
    torch.testing.assert_close(each / len(each), plain.grad)


def test_loss_is_the_mixed_cross_entropy_plus_the_penalty(kind, make_case):
    logits, target = make_case(kind)
    if isinstance(target, tuple):
        y_a, y_b, lam = target
        each = lam * F.cross_entropy(logits, y_a, reduction="none")
        each = each + (1 - lam) * F.cross_entropy(logits, y_b, reduction="none")
        cross_entropy = each.mean()
    else:
        cross_entropy = F.cross_entropy(logits, target)
    terms = SOSRLoss(0.9, 0.7).terms(logits, target)
    torch.testing.assert_close(terms.loss_base, cross_entropy, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.loss_sosr, 0.7 * sosr_penalty(logits, target, 0.9), rtol=1e-9, atol=0)
    assert terms.overconfident_fraction == is_overconfident(logits, target, 0.9).double().mean()
