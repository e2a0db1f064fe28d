"""The classifier: names that transfer, terms that add up, the same numbers as plain torchvision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision

import sosr_det.register  # noqa: F401
from sosr_det.errors import ConfigError
from sosr_det.losses import SOSRLoss, sosr_penalty
from sosr_det.models import (
    BackboneClassifier,
    ClassificationPreprocessor,
    build_backbone,
)

PREPROCESSOR = {
    "type": "ClassificationPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}


def classifier(loss=None):
    torch.manual_seed(0)
    return BackboneClassifier(
        backbone={"arch": "resnet18"},
        num_classes=5,
        loss=loss or {"type": "CrossEntropyLoss"},
        data_preprocessor=PREPROCESSOR,
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_backbone_names_are_torchvisions_without_the_head(name):
    network, spec = build_backbone(name)
    expected = torchvision.models.get_model(name, weights=None).state_dict()
    assert [n for n in expected if not n.startswith("fc.")] == list(network.state_dict())
    assert expected["fc.weight"].shape[1] == spec.num_features == spec.stage_channels[-1]
    assert spec.name.endswith(str(spec.depth))


def test_mmdetections_resnet_has_the_same_names():
    from mmdet.models import ResNet

    for depth in (18, 50):
        ours, _ = build_backbone(f"resnet{depth}")
        theirs = ResNet(depth, style="pytorch")
        shapes = {n: t.shape for n, t in theirs.state_dict().items()}
        assert shapes == {n: t.shape for n, t in ours.state_dict().items()}


def test_mmdetections_resnet_computes_the_same_features():
    # Same tensors are not enough: stride placement, padding and BN eps must agree as well.
    from mmdet.models import ResNet

    torch.manual_seed(0)
    ours, _ = build_backbone("resnet50")
    theirs = ResNet(50, style="pytorch")
    theirs.load_state_dict(ours.state_dict())
    caffe = ResNet(50, style="caffe")
    caffe.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for network in (ours, theirs, caffe):
        network.eval()
    with torch.no_grad():
        pooled = ours(images)
        torch.testing.assert_close(theirs(images)[-1].mean((2, 3)), pooled, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(caffe(images)[-1].mean((2, 3)), pooled, rtol=1e-2)  # negative control


def test_unknown_backbone_lists_near_ones():
    with pytest.raises(ConfigError, match="resnet50"):
        build_backbone("resnet_50")


def test_preprocessing_equals_torchvisions():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    preprocessor = ClassificationPreprocessor(PREPROCESSOR["mean"], PREPROCESSOR["std"])
    ours = preprocessor({"inputs": images, "labels": torch.tensor([0, 1])})["inputs"]
    reference = torchvision.transforms.v2.functional.normalize(
        images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="std"):
        ClassificationPreprocessor([0, 0, 0], [1, 0, 1])


def test_loss_terms_are_reported_apart_and_sum():
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    model = classifier({"type": "SOSRLoss", "threshold": 0.05, "weight": 2.0})
    logits = model(images)
    labels[0] = logits[0].argmax()  # at least one sample is right, and over-confident at P = 0.05
    terms = model(images, labels, mode="loss")
    assert set(terms) == {"loss_ce", "loss_sosr", "overconfident_fraction"}
    assert terms["loss_sosr"] > 0
    logits = model(images)
    torch.testing.assert_close(terms["loss_ce"], F.cross_entropy(logits, labels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        terms["loss_sosr"], 2 * sosr_penalty(logits, labels, 0.05), rtol=1e-3, atol=1e-6
    )
    total, logged = model.parse_losses(terms)
    torch.testing.assert_close(total, SOSRLoss(0.05, 2.0)(logits, labels), rtol=1e-4, atol=1e-5)
    assert logged["overconfident_fraction"] <= 1


def test_plain_cross_entropy_logs_the_same_curves():
    terms = classifier()(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), mode="loss")
    assert set(terms) == {"loss_ce", "overconfident_fraction"}


def test_the_loss_is_ours_whichever_library_the_last_run_was_of():
    from mmdet.models import CrossEntropyLoss as MMDetections
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        terms = classifier()(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), mode="loss")
        theirs = classifier({"type": "mmdet.CrossEntropyLoss"})
    assert set(terms) == {"loss_ce", "overconfident_fraction"}
    assert isinstance(theirs.loss_module, MMDetections)  # the negative control


def test_predictions_are_probabilities():
    model = classifier().eval()
    predictions = model(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 4]), mode="predict")
    assert [p["label"] for p in predictions] == [0, 1, 4]
    for prediction in predictions:
        assert prediction["scores"].sum().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="mode"):
        model(torch.randn(1, 3, 32, 32), mode="other")
