"""Focal losses against a loop over single logits, gradcheck, and MMDetection's own loss in PyTorch."""

import math

import mmcv.ops
import pytest
import torch

NO_WEIGHT = None
SOME_WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)


def slow_sigmoid_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float, weight: torch.Tensor | None
) -> torch.Tensor:
    loss = torch.zeros_like(logits)
    for sample, label in enumerate(target.tolist()):
        for column, logit in enumerate(logits[sample].tolist()):
            p = 1 / (1 + math.exp(-logit))
            if column == label:
                loss[sample, column] = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                loss[sample, column] = -(1 - alpha) * p**gamma * math.log(1 - p)
            if weight is not None:
                loss[sample, column] *= weight[label]
    return loss


def slow_softmax_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float, weight: torch.Tensor | None
) -> float:
    total = 0.0
    for sample, label in enumerate(target.tolist()):
        if label < 0:
            continue
        exponentials = [math.exp(logit) for logit in logits[sample].tolist()]
        p = exponentials[label] / sum(exponentials)
        total -= alpha * (1 - p) ** gamma * math.log(p) * (1 if weight is None else float(weight[label]))
    return total


@pytest.mark.parametrize("weight", [NO_WEIGHT, SOME_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_values_and_gradient(generator, gamma, weight):
    logits = (torch.randn(5, 3, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    # 3 is the background: negative for every class. It has no weight of its own.
    target = torch.tensor([0, 2, 1, 0, 3 if weight is None else 2])
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, gamma, 0.3, weight, "none")
    torch.testing.assert_close(loss, slow_sigmoid_focal_loss(logits.detach(), target, gamma, 0.3, weight))
    for reduction in ("none", "mean", "sum"):
        layer = mmcv.ops.SigmoidFocalLoss(gamma, 0.3, weight, reduction)
        assert torch.autograd.gradcheck(lambda x, layer=layer: layer(x, target), (logits,))


@pytest.mark.parametrize("weight", [NO_WEIGHT, SOME_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_values_and_gradient(generator, gamma, weight):
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1, -1, 2])
    loss = mmcv.ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, "sum")
    assert float(loss.detach()) == pytest.approx(
        slow_softmax_focal_loss(logits.detach(), target, gamma, 0.3, weight)
    )
    for reduction in ("mean", "sum"):
        layer = mmcv.ops.SoftmaxFocalLoss(gamma, 0.3, weight, reduction)
        assert torch.autograd.gradcheck(lambda x, layer=layer: layer(x, target), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_equals_mmdet_without_ops(generator, dtype):
    """MMDetection trains with its PyTorch loss on a CPU and with this op on CUDA: they must be one loss."""
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss, sigmoid_focal_loss

    logits = torch.randn(20, 4, generator=generator, dtype=dtype) * 10
    target = torch.randint(0, 5, (20,), generator=generator)
    one_hot = torch.nn.functional.one_hot(target, 5)[:, :4]
    results = []
    for loss, labels in ((sigmoid_focal_loss, target), (py_sigmoid_focal_loss, one_hot)):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels, avg_factor=7.0)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_extreme_logits_stay_finite_and_exact():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss.detach(), torch.tensor([[0.0, 0.0], [0.25 * 200, 0.75 * 200]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.25, 0.75]]))

    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    mmcv.ops.softmax_focal_loss(logits, torch.tensor([0]), 0.5, 0.25, None, "sum").backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss])
def test_no_samples(loss):
    logits = torch.zeros(0, 3, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64), 2.0, 0.25, None, "sum")
    value.backward()
    assert value.item() == 0
    assert logits.grad.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sigmoid_reduced_precision_is_rounded_once(generator, dtype):
    logits = torch.randn(6, 3, generator=generator).to(dtype)
    target = torch.randint(0, 4, (6,), generator=generator)
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    exact = mmcv.ops.sigmoid_focal_loss(logits.float(), target, 2.0, 0.25, None, "none")
    assert torch.equal(loss, exact.to(dtype))


def test_weights_have_no_entry_for_the_background():
    with pytest.raises(IndexError):
        mmcv.ops.sigmoid_focal_loss(torch.zeros(1, 3), torch.tensor([3]), 2.0, 0.25, torch.ones(3), "sum")
