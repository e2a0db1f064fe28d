"""Losses from configs: nested bases, schedules, mixed batches, and what the classifier logs of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sosr_det.register  # noqa: F401
from sosr_det.errors import ConfigError
from sosr_det.losses import ConfidencePenalty, OnlineLabelSmoothing, SOSRLoss, expected_classes
from sosr_det.models import BackboneClassifier, ClassificationPreprocessor, build_criterion

MEAN_STD = {"mean": [127.5] * 3, "std": [60.0] * 3}
BASES = {
    "loss_ce": {"type": "CrossEntropy", "label_smoothing": 0.1},
    "loss_confidence_penalty": {"type": "ConfidencePenalty", "weight": 0.1},
    "loss_online_label_smoothing": {"type": "OnlineLabelSmoothing"},
}


def classifier(loss: dict, **arguments) -> BackboneClassifier:
    torch.manual_seed(0)
    return BackboneClassifier({"arch": "resnet18"}, num_classes=5, loss=loss, **arguments)


@pytest.mark.parametrize("name", BASES)
def test_each_base_alone_and_under_sosr(name):
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    alone = classifier(BASES[name])
    both = classifier({"type": "SOSRLoss", "threshold": 0.3, "weight": 2.0, "base": BASES[name]})
    logged_alone = alone(images, labels, mode="loss")
    logged_both = both(images, labels, mode="loss")
    assert list(logged_alone) == [name, "overconfident_fraction"]
    assert list(logged_both) == [name, "loss_sosr", "overconfident_fraction"]
    torch.testing.assert_close(logged_both[name], logged_alone[name])
    total, _ = both.parse_losses(logged_both)
    torch.testing.assert_close(total, logged_both[name] + logged_both["loss_sosr"])
    total.backward()
    assert all(p.grad is not None for p in both.parameters())


def test_values_are_not_read_inside_the_engine():
    # The engine's hooks watch them; a check here would synchronise the GPU in every step.
    model = classifier({"type": "SOSRLoss", "base": {"type": "ConfidencePenalty"}})
    assert [m.validate for m in model.loss_module.modules()] == [False, False]
    # Unless a config asks for it.
    assert classifier({"type": "SOSRLoss", "validate": True}).loss_module.validate is True


def test_criteria_are_built_from_nested_configs():
    loss = build_criterion(
        {
            "type": "SOSRLoss",
            "weight": {"type": "LinearSchedule", "start": 0.0, "end": 0.5, "begin_epoch": 0, "end_epoch": 10},
            "base": {"type": "OnlineLabelSmoothing", "hard_weight": 0.7},
        },
        num_classes=9,
    )
    assert isinstance(loss, SOSRLoss)
    assert isinstance(loss.base, OnlineLabelSmoothing)
    assert (loss.base.num_classes, loss.base.hard_weight, loss.weight) == (9, 0.7, 0.0)
    loss.set_epoch(5)
    assert loss.weight == 0.25
    assert isinstance(build_criterion({"type": "ConfidencePenalty"}, 9), ConfidencePenalty)
    with pytest.raises(ConfigError, match=r"model\.loss\.weight: unknown schedule type 'Linear'"):
        build_criterion({"type": "SOSRLoss", "weight": {"type": "Linear"}}, 9)


@pytest.mark.parametrize("name", ["CutMix", "MixUp"])
def test_training_batches_are_mixed_and_the_loss_sees_both_labels(name):
    preprocessor = ClassificationPreprocessor(
        **MEAN_STD, batch_augments=[{"type": f"torchvision/{name}", "num_classes": 5}]
    )
    data = {
        "inputs": torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8),
        "labels": torch.arange(8) % 5,
    }
    torch.manual_seed(0)
    mixed = preprocessor(data, training=True)
    assert mixed["labels"].shape == (8, 5)
    torch.testing.assert_close(mixed["labels"].sum(1), torch.ones(8))
    expected = expected_classes(mixed["labels"], 5)
    assert (expected.sum(1) == 2).all()
    assert expected.gather(1, data["labels"][:, None]).all()
    clean = preprocessor(data, training=False)
    torch.testing.assert_close(clean["labels"], data["labels"])
    assert not torch.equal(clean["inputs"], mixed["inputs"])
    terms = classifier({"type": "SOSRLoss"})(mixed["inputs"], mixed["labels"], mode="loss")
    assert torch.isfinite(terms["loss_ce"])


def test_normalising_leaves_the_callers_images_alone():
    images = torch.rand(2, 3, 4, 4) * 255
    before = images.clone()
    ClassificationPreprocessor(**MEAN_STD)({"inputs": images, "labels": torch.tensor([0, 1])})
    assert torch.equal(images, before)


def test_probability_of_mixing():
    data = {"inputs": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "labels": torch.tensor([0, 1])}
    counts = {}
    for probability in (0.0, 0.5, 1.0):
        preprocessor = ClassificationPreprocessor(
            **MEAN_STD,
            batch_augments=[{"type": "torchvision/CutMix", "num_classes": 5}],
            batch_augment_probability=probability,
        )
        torch.manual_seed(0)
        counts[probability] = sum(preprocessor(data, True)["labels"].dim() == 2 for _ in range(200))
    assert counts[0.0] == 0
    assert counts[1.0] == 200
    assert 70 < counts[0.5] < 130  # 4 standard deviations
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got 1.5"):
        ClassificationPreprocessor(**MEAN_STD, batch_augment_probability=1.5)


def test_two_dimensional_features_of_figure_3():
    model = classifier({"type": "SOSRLoss"}, feature_dim=2)
    images = torch.randn(3, 3, 32, 32)
    model.eval()
    features = model.features(images)
    assert features.shape == (3, 2)
    torch.testing.assert_close(model(images), model.head(features))
    torch.testing.assert_close(
        features, F.linear(model.backbone(images), model.reduce.weight, model.reduce.bias)
    )
    with pytest.raises(ValueError, match="feature_dim"):
        classifier({"type": "SOSRLoss"}, feature_dim=0)
