"""docs/anywhere/pytorch.md, run as it stands."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from sosr_det.losses import SOSRLoss


@pytest.fixture
def page(run_page):
    return run_page("pytorch")


def loader(readable_images, batch_size=16):
    return DataLoader(TensorDataset(*readable_images), batch_size)


def test_the_loop_trains_and_the_penalty_becomes_active(page, checks, readable_images):
    torch.manual_seed(0)
    history = page.train(checks.small_network(), loader(readable_images), checks.num_classes, epochs=100)
    assert history[-1]["loss_base"] < 0.5 * history[0]["loss_base"]
    assert history[0]["overconfident_fraction"] == history[0]["loss_sosr"] == 0
    assert any(means["overconfident_fraction"] > 0 and means["loss_sosr"] > 0 for means in history)


def test_every_step_has_the_loss_of_what_is_in_its_images(page, checks, readable_images):
    torch.manual_seed(1)
    model = checks.small_network(confident=True)
    recorder = checks.Recorder(model)
    everything = loader(readable_images, batch_size=48)  # one step per epoch: its means are that step's terms
    logs = page.train(model, everything, checks.num_classes, epochs=20)
    checks.assert_run(logs, recorder.calls, mixes=True)


@pytest.mark.parametrize("amp_dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(page, checks, readable_images, amp_dtype):
    if amp_dtype is torch.float16 and not torch.cuda.is_available():
        pytest.skip("fp16 with loss scaling needs a GPU")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = checks.small_network(confident=True)
    recorder = checks.Recorder(model)
    everything = loader(readable_images, batch_size=48)
    logs = page.train(model, everything, checks.num_classes, 20, device=device, amp_dtype=amp_dtype)
    # The logits were rounded to half precision, the loss over them was not: the usual tolerance holds.
    assert all(torch.equal(logits.to(amp_dtype).double(), logits) for _, logits in recorder.calls)
    checks.assert_run(logs, [(images.cpu(), logits.cpu()) for images, logits in recorder.calls], mixes=True)


def test_a_pair_target_is_the_soft_target(page, checks, readable_images):
    images, labels = readable_images
    torch.manual_seed(3)
    logits = 14 * torch.eye(checks.num_classes)[labels] + torch.randn(48, checks.num_classes)
    criterion = SOSRLoss(threshold=0.8)
    active = 0
    for _ in range(5):
        mixed, (y_a, y_b, lam) = page.cutmix(images, labels)
        shares = checks.shares_in(mixed)
        assert torch.equal(y_a, labels)
        terms = criterion.terms(logits, (y_a, y_b, lam))
        checks.assert_terms(terms._asdict(), logits, shares, threshold=0.8)
        torch.testing.assert_close(criterion(logits, shares.float()), terms.loss_base + terms.loss_sosr)
        active += float(terms.loss_sosr) > 0
        # Negative control: exchanged labels are another target.
        exchanged = criterion(logits, (y_b, y_a, lam))
        assert not torch.isclose(exchanged, terms.loss_base + terms.loss_sosr, rtol=1e-3)
    assert active


def test_the_compiled_criterion_is_the_criterion(run_page, monkeypatch):
    compile_with_compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, **kwargs: compile_with_compiler(*args, backend="aot_eager", **kwargs)
    )
    compiled = run_page("pytorch").compiled_criterion
    logits = (12 * torch.eye(5) + torch.randn(5, 5)).requires_grad_()
    labels = torch.arange(5)
    for target in (labels, 0.5 * torch.eye(5) + 0.5 * torch.eye(5).roll(1, 0), (labels, labels.roll(1), 0.3)):
        (expected,) = torch.autograd.grad(SOSRLoss()(logits, target), logits)
        loss = compiled(logits, target)
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss, SOSRLoss()(logits, target))
        torch.testing.assert_close(gradient, expected)
