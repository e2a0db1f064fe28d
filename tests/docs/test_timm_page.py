"""docs/anywhere/timm.md, run as it stands, with real timm networks."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.utils.data import DataLoader, TensorDataset

from sosr_det.losses import SOSRLoss, expected_classes


@pytest.fixture
def page(run_page):
    return run_page("timm")


def seed(value):
    torch.manual_seed(value)
    np.random.seed(value)  # timm's Mixup draws from it


def batches(readable_images, batch_size=24):
    return DataLoader(TensorDataset(*readable_images), batch_size)


@pytest.mark.parametrize("mixing", [True, False], ids=["mixup_cutmix", "label_smoothing"])
def test_a_real_network_learns_and_every_step_has_the_right_loss(
    page, checks, readable_images, monkeypatch, mixing
):
    recorders = []
    create_model = timm.create_model

    def create_recorded(*args, **kwargs):
        model = create_model(*args, **kwargs)
        recorders.append(checks.Recorder(model))
        return model

    monkeypatch.setattr(timm, "create_model", create_recorded)
    seed(0)
    smoothing = 0.01  # with 0.1 few samples exceed P = 0.99
    _, log = page.train(
        "test_resnet", batches(readable_images), checks.num_classes, 40, mixing, smoothing, in_chans=checks.num_classes
    )  # fmt: skip
    losses = [entry["loss_base"] for entry in log]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    checks.assert_run(log, recorders[0].calls, mixes=mixing, smoothing=smoothing)


def test_label_smoothed_mixes_expect_the_mixed_labels_only(checks, readable_images):
    seed(0)
    images, labels = readable_images
    for mode in ("batch", "pair", "elem"):
        mix = Mixup(
            mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=checks.num_classes, mode=mode
        )
        for _ in range(10):
            mixed, target = mix(images.clone(), labels)
            expected = expected_classes(target, checks.num_classes)
            # lam within 1e-5 of 0 or 1 is lost in fp32 targets and images in different ways.
            clear = ((checks.shares_in(mixed) - 0.5).abs() < 0.49999).any(dim=1) | (labels == labels.flip(0))
            assert torch.equal(expected[clear], (checks.shares_in(mixed) > 0)[clear])
            assert (target > 0).all()  # negative control: "every class above 0" would be all of them


def test_the_base_keeps_timms_value():
    logits, labels = torch.randn(8, 5), torch.arange(8) % 5
    soft = torch.rand(8, 5).softmax(dim=1)
    for base, target in ((LabelSmoothingCrossEntropy(0.1), labels), (SoftTargetCrossEntropy(), soft)):
        assert SOSRLoss(base=base).terms(logits, target).loss_base.item() == base(logits, target).item()
        assert SOSRLoss(weight=0, base=base)(logits, target).item() == base(logits, target).item()


def test_timms_task_takes_the_criterion():
    task_module = pytest.importorskip("timm.task", reason="this timm has no timm.task")
    torch.manual_seed(0)
    criterion = SOSRLoss(threshold=0.05)
    task = task_module.ClassificationTask(torch.nn.Linear(7, 5), criterion=criterion, verbose=False)
    images, labels = torch.randn(6, 7), torch.arange(6) % 5
    result = task(images, labels)
    torch.testing.assert_close(result["loss"], criterion(task.trainable_module(images), labels))
    assert criterion.terms(task.trainable_module(images), labels).loss_sosr > 0


def test_label_smoothing_pulls_the_probability_below_the_threshold():
    # The page's limit, at the optimum of label-smoothed cross-entropy: logits whose softmax is the smoothed label.
    for num_classes in (10, 1000):
        label = torch.full((1, num_classes), 0.1 / num_classes)
        label[0, 3] += 0.9
        logits, target = label.log().requires_grad_(), torch.tensor([3])
        terms = SOSRLoss(base=LabelSmoothingCrossEntropy(0.1)).terms(logits, target)
        (gradient,) = torch.autograd.grad(terms.loss_base, logits)
        assert gradient.abs().max() < 1e-6  # it is the optimum
        assert logits.softmax(dim=1)[0, 3].item() == pytest.approx(0.9 + 0.1 / num_classes, rel=1e-5)
        assert terms.overconfident_fraction == 0
