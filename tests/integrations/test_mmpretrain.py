"""The mmpretrain adapter against the plain loss, behind real heads and classifiers."""

from __future__ import annotations

import types

import pytest
import torch

pytest.importorskip(
    "mmpretrain", reason="mmpretrain is not installed (onedl-mmpretrain, see docs/anywhere/mmpretrain.md)"
)
try:
    import mmpretrain.models
except Exception as error:  # 1.3.6 raises TypeError beside transformers 5
    pytest.skip(f"mmpretrain does not import here: {error!r}", allow_module_level=True)

from mmengine.logging import MessageHub
from mmpretrain.registry import HOOKS, MODELS
from mmpretrain.structures import DataSample

import sosr_det.integrations.mmpretrain
from sosr_det import losses


@pytest.fixture
def confident():
    torch.manual_seed(0)
    labels = torch.arange(8) % 5
    return 12 * torch.eye(5)[labels] + torch.randn(8, 5), labels


def head(**loss):
    built = MODELS.build({"type": "ClsHead", "loss": {"type": "SOSRLoss", **loss}})
    return built.train()


def samples(targets):
    soft = targets.dim() == 2
    return [DataSample().set_gt_score(t) if soft else DataSample().set_gt_label(t) for t in targets]


def test_a_real_head_computes_the_plain_loss(confident):
    logits, labels = confident
    loss = head(weight=2.0).loss((logits,), samples(labels))["loss"]
    expected = losses.SOSRLoss(weight=2.0).terms(logits, labels)
    assert expected.loss_sosr > 0
    torch.testing.assert_close(loss, expected.loss_base + expected.loss_sosr)
    shifted = head(weight=2.0).loss((logits,), samples((labels + 1) % 5))["loss"]
    assert not torch.isclose(loss, shifted)  # negative control


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_scores_are_the_labels(confident, dtype):
    logits, labels = confident
    scores = torch.eye(5)[labels].to(dtype)  # integers come from to_onehot=True without batch augmentations
    assert head().loss((logits,), samples(scores))["loss"] == losses.SOSRLoss()(logits, labels)


def test_mixed_scores(confident):
    logits, labels = confident
    scores = 0.7 * torch.eye(5)[labels] + 0.3 * torch.eye(5)[labels.roll(1)]
    logits = logits + 12 * torch.eye(5)[labels.roll(1)]
    loss = head().loss((logits,), samples(scores))["loss"]
    expected = losses.SOSRLoss().terms(logits, (labels, labels.roll(1), 0.7))
    assert expected.loss_sosr > 0
    torch.testing.assert_close(loss, expected.loss_base + expected.loss_sosr)


@pytest.mark.parametrize(
    ("base", "plain"),
    [
        ({"type": "CrossEntropy", "label_smoothing": 0.1}, losses.CrossEntropy(0.1)),
        ({"type": "LabelSmoothLoss", "label_smooth_val": 0.1}, losses.CrossEntropy(0.1)),
        ({"type": "ConfidencePenalty", "weight": 0.1}, losses.ConfidencePenalty(0.1)),
        ({"type": "OnlineLabelSmoothing", "num_classes": 5}, losses.OnlineLabelSmoothing(5)),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_base_criteria_of_both_packages(confident, base, plain):
    logits, labels = confident
    loss = head(base=base).loss((logits,), samples(labels))["loss"]
    torch.testing.assert_close(loss, losses.SOSRLoss(base=plain)(logits, labels), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(loss, losses.SOSRLoss()(logits, labels))  # the base does matter


def test_classifiers_without_a_head(confident):
    # TimmClassifier passes no avg_factor.
    pytest.importorskip("timm")
    model = MODELS.build(
        {
            "type": "TimmClassifier",
            "model_name": "test_resnet",
            "num_classes": 5,
            "loss": {"type": "SOSRLoss", "threshold": 0.05},
        }
    )
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    logits = model(images)
    loss = model(images, samples(labels), mode="loss")["loss"]
    torch.testing.assert_close(loss, losses.SOSRLoss(0.05)(logits, labels), rtol=1e-3, atol=1e-4)


def test_terms_are_logged_in_training_only(confident):
    logits, labels = confident
    MessageHub.get_instance("adapter")  # becomes the current one
    hub = MessageHub.get_current_instance()
    module = head().loss_module
    module.eval()
    module(logits, labels)
    assert not hub.log_scalars
    module.train()
    module(logits, labels, avg_factor=8)
    for name, value in losses.SOSRLoss().terms(logits, labels)._asdict().items():
        assert hub.get_scalar(f"train/{name}").current() == pytest.approx(value.item())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"weight": torch.ones(8)}, "sample weights"),
        ({"reduction_override": "sum"}, "sum"),
        ({"avg_factor": 4}, "batch size 8, got avg_factor=4"),
    ],
)
def test_what_the_penalty_has_no_meaning_for_is_refused(confident, arguments, named):
    with pytest.raises(ValueError, match=named):
        head().loss_module(*confident, **arguments)


def test_epochs_reach_the_losses(confident):
    hook = HOOKS.build({"type": "HeadLossEpochHook"})
    module = head(start_epoch=3, base={"type": "OnlineLabelSmoothing", "num_classes": 5}).loss_module
    runner = types.SimpleNamespace(model=torch.nn.Sequential(module), epoch=2)
    hook.before_train_epoch(runner)
    assert module.weight == 0
    module(*confident)
    uniform = module.base.soft_labels.clone()
    hook.after_train_epoch(runner)
    assert not torch.equal(module.base.soft_labels, uniform)
    runner.epoch = 3
    hook.before_train_epoch(runner)
    assert module.weight == 0.5


def test_schedules_from_configs():
    schedule = {"type": "LinearSchedule", "start": 0.0, "end": 0.5, "begin_epoch": 0, "end_epoch": 10}
    module = head(weight=schedule).loss_module
    hook = HOOKS.build({"type": "HeadLossEpochHook"})
    for epoch, weight in ((0, 0.0), (4, 0.2), (20, 0.5)):
        hook.before_train_epoch(types.SimpleNamespace(model=module, epoch=epoch))
        assert module.weight == pytest.approx(weight)


def test_the_scope_is_mmpretrains():
    from mmengine.registry import MODELS as ROOT

    assert MODELS.get("SOSRLoss") is sosr_det.integrations.mmpretrain.HeadSOSRLoss
    assert ROOT.get("SOSRLoss") is not sosr_det.integrations.mmpretrain.HeadSOSRLoss
    assert mmpretrain.models is not None
