"""What the losses refuse, by name; and that nothing is read from an accelerator's tensors unasked."""

from __future__ import annotations

import pytest
import torch

from sosr_det.losses import CrossEntropy, SOSRLoss, is_overconfident, sosr_penalty

ZEROS = torch.zeros(2, 4)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (torch.full((2, 4), 0.3), r"sum to 1 over the classes, got 1.2 at sample 0"),
        (torch.tensor([[1.0, 0, 0, 0], [1.2, -0.2, 0, 0]]), "negative, got -0.2.* at sample 1, class 1"),
        (torch.tensor([[1.0, 0, 0, 0], [0.25] * 4]), "sample 1 has an empty expected set"),
        (torch.tensor([[float("nan"), 0, 0, 0], [1.0, 0, 0, 0]]), "got nan at sample 0"),
        (torch.ones(2, 3) / 3, r"shape of the logits \[2, 4\], got \[2, 3\]"),
        (LABELS.float(), r"class indices must be torch.int64"),
        (LABELS.int(), "torch.int64"),
        (LABELS[:1], r"shape \[2\]"),
        ([0, 1], "got list"),
        ((LABELS, LABELS), r"\(y_a, y_b, lam\), got 2 items"),
        ((LABELS, [0, 1], 0.5), "y_b must be a tensor"),
        ((LABELS, torch.tensor([0, 4]), 0.5), r"y_b labels must lie in \[0, 4\).*got 4"),
        ((LABELS, LABELS.int(), 0.5), "y_b must hold"),
        ((LABELS, LABELS, 1.5), r"lam .* \[0, 1\], got 1.5"),
        ((LABELS, LABELS, torch.tensor([0.5, -0.5])), r"lam .* got -0.5"),
        ((LABELS, LABELS, torch.ones(3)), r"lam must be a number, 0-dim or of shape \[2\], got \[3\]"),
        ((LABELS, LABELS, float("nan")), "lam .* got nan"),
        ((LABELS, LABELS, "half"), "lam must be a number"),
    ],
)
def test_bad_targets_are_named(target, named):
    for function in (sosr_penalty, is_overconfident, SOSRLoss(), CrossEntropy()):
        with pytest.raises(ValueError, match=named):
            function(ZEROS, target)


def test_soft_targets_within_rounding_are_accepted():
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 1e-5), (torch.float16, 5e-3)):
        target = torch.tensor([[0.7 + error, 0.3, 0.0, 0.0]] * 2, dtype=dtype)
        sosr_penalty(ZEROS, target)
    with pytest.raises(ValueError, match="sum to 1"):
        sosr_penalty(ZEROS, torch.tensor([[0.71, 0.3, 0.0, 0.0]] * 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("confident", [True, False])
def test_every_non_finite_logit_is_found(value, confident):
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    logits[1, 0] = 30.0 if confident else 0.0
    for function in (sosr_penalty, is_overconfident, SOSRLoss()):
        with pytest.raises(ValueError, match=f"got {value} at sample 1, class 2"):
            function(logits, torch.tensor([0, 0, 0]))


class Unreadable(torch.utils._python_dispatch.TorchDispatchMode):
    """Fails where a value leaves the device: what would synchronise an accelerator."""

    # The last one is a constant made on the host, which an accelerator would have to fetch.
    SYNCHRONISING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "equal.default",
        "lift_fresh",
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.SYNCHRONISING):
            raise AssertionError(f"{function} reads a value")
        return function(*args, **(kwargs or {}))


def test_nothing_is_read_without_validation(kind, make_case):
    logits, target = make_case(kind)
    logits.requires_grad_()
    if isinstance(target, tuple) and not torch.is_tensor(target[2]):
        target = (*target[:2], torch.tensor(target[2]))
    for threshold in (0.3, 0.99):
        with Unreadable():
            SOSRLoss(threshold, validate=False)(logits, target).backward()
            SOSRLoss(threshold, validate=False).terms(logits, target)
            sosr_penalty(logits, target, threshold, validate=False).backward()
            is_overconfident(logits, target, threshold, validate=False)
    # Negative control: with validation the same calls read values.
    with pytest.raises(AssertionError, match="reads a value"), Unreadable():
        SOSRLoss(validate=True)(logits, target)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_logits_are_found_where_every_class_is_expected(value):
    logits = torch.tensor([[0.0, 1.0], [value, 0.0]])
    mixed = (torch.tensor([0, 0]), torch.tensor([1, 1]), 0.5)
    for function in (sosr_penalty, is_overconfident, SOSRLoss()):
        with pytest.raises(ValueError, match=f"got {value} at sample 1, class 0"):
            function(logits, mixed)


def test_a_share_given_as_a_number_is_always_checked():
    with pytest.raises(ValueError, match=r"got 1\.7"):
        SOSRLoss(validate=False)(ZEROS, (LABELS, LABELS, 1.7))


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": "0.9"},
        {"threshold": None},
        {"weight": None},
        {"weight": True},
        {"start_epoch": "3"},
        {"base": torch.nn.CrossEntropyLoss},
    ],
)
def test_settings_of_the_wrong_kind(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SOSRLoss(**arguments)


def test_a_base_that_is_no_mean_is_refused():
    with pytest.raises(ValueError, match=r"0-dim, got shape \[2\]; give it reduction='mean'"):
        SOSRLoss(base=torch.nn.CrossEntropyLoss(reduction="none"))(ZEROS, LABELS)


def test_without_validation_a_nan_goes_through_to_the_engines_guard():
    logits = torch.full((1, 3), float("nan"))
    assert SOSRLoss(validate=False)(logits, torch.tensor([0])).isnan()
