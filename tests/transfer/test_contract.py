"""The eight ways to hand over a wrong backbone, and the right one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sosr_det.errors import BackboneMismatchError, ConfigError
from sosr_det.models import build_backbone
from sosr_det.registry.manifest import Arch, Preprocessing
from sosr_det.transfer.contract import (
    Allowance,
    check_arch,
    check_preprocessing,
    compare_backbone,
    require_match,
)


@pytest.fixture(scope="module")
def live():
    torch.manual_seed(0)
    return build_backbone("resnet18")[0].state_dict()


@pytest.fixture
def source(live):
    return {name: tensor.clone() for name, tensor in live.items()}


def refused(live, source) -> str:
    with pytest.raises(BackboneMismatchError) as error:
        require_match(compare_backbone(live, source, "weights.pth"))
    return str(error.value)


def test_exact_tensors_pass(live, source):
    report = compare_backbone(live, source, "weights.pth")
    require_match(report)
    assert len(report.matched) == len(live) == 120


def test_only_the_classifier_head_may_be_left_over(live, source):
    source["fc.weight"] = torch.zeros(1000, 512)
    source["fc.bias"] = torch.zeros(1000)
    report = compare_backbone(live, source, "weights.pth")
    require_match(report)
    assert report.classifier_head == ["fc.weight", "fc.bias"]
    source["aux.weight"] = torch.zeros(3)
    assert "aux.weight" in refused(live, source)


def test_old_files_without_batch_counters_pass(live, source):
    require_match(
        compare_backbone(live, {k: v for k, v in source.items() if "num_batches" not in k}, "old.pth")
    )


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", "encoder_q."])
def test_prefixed_names_are_refused_with_their_cause(live, source, prefix):
    message = refused(live, {prefix + name: tensor for name, tensor in source.items()})
    assert "0 of 120 tensors match" in message
    assert repr(prefix) in message


def test_nested_state_dict_is_refused(live, source):
    assert "0 of 120" in refused(live, {"model": source})


def test_a_network_for_small_images_is_no_detection_backbone():
    arch = Arch("resnet56", "pytorchcv", None, "3x3 conv", ())
    with pytest.raises(ConfigError, match=r"holds a resnet56 for small images.*arch='resnet56'"):
        check_arch({"depth": 50, "style": "pytorch"}, arch, "sosr://x")
    check_arch({"arch": "resnet56"}, arch, "sosr://x")


def test_other_depth_is_refused(live):
    deeper = build_backbone("resnet50")[0].state_dict()
    assert "another architecture or depth" in refused(live, deeper)


def test_missing_stage_is_refused(live, source):
    message = refused(live, {k: v for k, v in source.items() if not k.startswith("layer4")})
    assert "missing from the source: layer4.0.conv1.weight" in message


def test_one_flipped_bit_is_refused(live, source):
    flipped = source["layer3.0.conv1.weight"].view(torch.int32)
    flipped[0, 0, 0, 0] ^= 1
    message = refused(live, source)
    assert "layer3.0.conv1.weight" in message
    assert "119 of 120" in message


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("conv1.weight", float("nan"), "NaN"), ("bn1.running_var", -1.0, "negative variances")],
)
def test_unusable_values_are_refused_even_when_they_match(live, source, name, value, reason):
    source[name].view(-1)[0] = value
    assert reason in refused(dict(source), source)


R50 = Arch("resnet50", "torchvision", "pytorch", "7x7/2", (256, 512, 1024, 2048))
R18 = Arch("resnet18", "torchvision", "pytorch", "7x7/2", (64, 128, 256, 512))


def test_arch_checks():
    check_arch({"depth": 50, "style": "pytorch"}, R50, "sosr://x")
    check_arch({"arch": "resnet50"}, R50, "sosr://x")
    check_arch({"depth": 18, "style": "caffe"}, R18, "sosr://x")  # basic blocks have no style
    for backbone in ({"depth": 18}, {"arch": "resnet18"}, {"depth": 50, "style": "caffe"}):
        with pytest.raises(ConfigError, match="sosr://x"):
            check_arch(backbone, R50, "sosr://x")


def test_a_caffe_style_network_is_no_classifier_of_ours():
    """torchvision's bottlenecks stride in the 3x3 convolution, and so do those of our classifiers."""
    caffe = dataclasses.replace(R50, style="caffe")
    with pytest.raises(ConfigError, match="style='caffe'"):
        check_arch({"arch": "resnet50"}, caffe, "sosr://x")
    check_arch({"arch": "resnet50"}, caffe, "sosr://x", ["style"])
    check_arch({"arch": "resnet18"}, dataclasses.replace(R18, style="caffe"), "sosr://x")


def test_the_style_of_grouped_networks_counts_too():
    grouped = dataclasses.replace(R50, name="resnext50_32x4d")
    check_arch({"depth": 50, "style": "pytorch"}, grouped, "sosr://x")
    with pytest.raises(ConfigError, match="style='pytorch'"):
        check_arch({"depth": 50, "style": "caffe"}, grouped, "sosr://x")


@pytest.mark.parametrize("name", ["probe.Layer4", "probe.3", "probe.conv1", "probe.", "probe.layer5"])
def test_a_stage_that_no_probe_has_is_refused(name):
    """It must not widen what is allowed: stages are compared in the order of their names."""
    with pytest.raises(ConfigError, match=r"probe\.layer1"):
        Allowance([name])


@pytest.mark.parametrize("name", ["*", "[a-z]*", "*e*", "?*", "[!x]*"])
def test_patterns_that_allow_every_tensor_are_refused(name):
    with pytest.raises(ConfigError, match="would allow anything"):
        Allowance([name])


def test_patterns_of_parts_are_allowed():
    names = ["layer*.conv_offset.*", "*.running_var", "layer4.*", "conv1.weight", "*.num_batches_tracked"]
    assert all(Allowance([name]).tensor(name) for name in names)
    assert Allowance(["probe.pooled"]).probe("pooled")
    assert not Allowance(["probe.pooled"]).probe("layer4")


def preprocessing(**changes):
    fields = {
        "channel_order": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "scale": "0-255",
        "interpolation": "bilinear",
        "input_size": (224, 224),
    }
    return Preprocessing(**{**fields, **changes})


DETECTOR = {
    "type": "DetDataPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
}


def test_matching_preprocessing_passes():
    check_preprocessing(DETECTOR, preprocessing(), "sosr://x")
    check_preprocessing(
        DETECTOR,
        preprocessing(scale="0-1", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "sosr://x",
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bgr_to_rgb": False}, "channel order is bgr"),
        ({"mean": [103.53, 116.28, 123.675]}, "mean is"),
        ({"std": [1.0, 1.0, 1.0]}, "std is"),
        ({"mean": None}, "mean is None"),
    ],
)
def test_other_preprocessing_is_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        check_preprocessing({**DETECTOR, **change}, preprocessing(), "sosr://x")


def test_our_classifiers_see_rgb():
    ours = {**DETECTOR, "type": "ClassificationPreprocessor"}
    del ours["bgr_to_rgb"]
    check_preprocessing(ours, preprocessing(), "sosr://x")
    with pytest.raises(ConfigError, match="channel order is rgb, the backbone was trained with bgr"):
        check_preprocessing(ours, preprocessing(channel_order="bgr"), "sosr://x")
