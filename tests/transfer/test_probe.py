"""The probe fires on what tensors cannot show, and on nothing else."""

from __future__ import annotations

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

import sosr_det.register  # noqa: F401  mmcv's ops, before mmdet
from sosr_det.errors import BackboneMismatchError
from sosr_det.models import build_backbone
from sosr_det.registry.manifest import Manifest, Preprocessing, Probe
from sosr_det.transfer.probe import TOLERANCE, compare_probe, compute_probe, probe_image, probe_live

RGB = Preprocessing(
    "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "0-255", "bilinear", (224, 224)
)
DETECTOR = {
    "type": "DetDataPreprocessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "pad_size_divisor": 32,
}


def network(name="resnet50", seed=0):
    torch.manual_seed(seed)
    return build_backbone(name)[0]


@pytest.fixture(scope="module")
def r50():
    return network()


@pytest.fixture(scope="module")
def r50_probe(r50):
    return compute_probe(r50, RGB)


class Detector(nn.Module):
    """What the probe needs of an MMDetection model: its backbone and its preprocessor, built by mmdet."""

    def __init__(self, state, preprocessor=None, **backbone):
        super().__init__()
        from mmdet.registry import MODELS

        settings = {"type": "mmdet.ResNet", "depth": 50, "style": "pytorch", "frozen_stages": 1, **backbone}
        self.backbone = MODELS.build(settings)
        self.data_preprocessor = MODELS.build(
            {**DETECTOR, "type": "mmdet.DetDataPreprocessor", **(preprocessor or {})}
        )
        self.backbone.load_state_dict(state, strict=False)


def largest_difference(probe: Probe, live) -> float:
    """Of any figure, relative to the stage's root mean square: an own formula, without the size of the map."""
    worst = 0.0
    for stage, stored in probe.stages.items():
        first = 3 if stage != "pooled" else 1
        assert tuple(stored[:first]) == tuple(live[stage][:first])
        stored, ours = np.asarray(stored[first:]), np.asarray(live[stage][first:])
        worst = max(worst, float(np.abs(stored - ours).max() / stored[0]))
    return worst


# ---- the image and the signature -----------------------------------------------------------------------------------


def test_the_image_never_changes():
    """Every stored probe was made with it: another picture needs another name."""
    image = probe_image()
    assert image.dtype == torch.uint8
    assert image.shape == (3, 96, 96)
    assert image[:, 0, 0].tolist() == [130, 60, 0]
    assert image[:, 50, 71].tolist() == [131, 148, 33]
    assert image.long().sum(dim=(1, 2)).tolist() == [1774440, 1098888, 368488]


def test_the_image_has_no_symmetry_and_no_similar_channels():
    image = probe_image().float()
    for other in (image.flip(0), image.flip(1), image.flip(2), image.transpose(1, 2)):
        assert (image - other).abs().mean() > 20
    means = image.mean(dim=(1, 2))
    assert means[0] > means[1] + 60 > means[2] + 120


def test_the_signature_is_what_it_says(r50, r50_probe):
    """layer1's figures, recomputed by hand."""
    mean, std = torch.tensor(RGB.mean).view(3, 1, 1), torch.tensor(RGB.std).view(3, 1, 1)
    x = ((probe_image() - mean) / std).unsqueeze(0)
    twin = copy.deepcopy(r50).eval()
    with torch.no_grad():
        features = twin.layer1(twin.maxpool(twin.relu(twin.bn1(twin.conv1(x)))))[0].double()
    expected = [
        256, 24, 24, (features**2).mean() ** 0.5,
        features[:, :12].mean(), features[:, 12:].mean(), features[:, :, :12].mean(), features[:, :, 12:].mean(),
        *(features[torch.arange(256) % 4 == k].mean() for k in range(4)),
    ]  # fmt: skip
    assert list(r50_probe.stages) == ["layer1", "layer2", "layer3", "layer4"]
    assert r50_probe.stages["layer1"] == pytest.approx([float(v) for v in expected], rel=1e-5)
    assert r50_probe.stages["layer4"][:3] == (2048, 3, 3)


def test_a_probe_fits_into_a_manifest(r50, r50_probe):
    from sosr_det.registry import tensor_specs

    fields = {
        "arch": {"name": "resnet50", "library": "torchvision", "style": "pytorch", "stem": "7x7",
                 "feature_channels": []},
        "preprocessing": dataclasses.asdict(RGB),
        "probe": r50_probe,
    }  # fmt: skip
    manifest = Manifest.build(tensor_specs({"a": torch.zeros(2)}), fields)
    again = Manifest.from_bytes(manifest.to_bytes(), "m.json", manifest.digest)
    assert again.probe == r50_probe
    assert compare_probe(r50_probe.stages, again.probe) == {}


# ---- what must be caught -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "stage"),
    [
        ({"style": "caffe"}, "layer2"),
        ({"norm_cfg": {"type": "BN", "eps": 1e-3}}, "layer1"),
        ({"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}, "layer4"),
        ({"dilations": (1, 1, 2, 1)}, "layer3"),
        ({"avg_down": True}, "layer1"),
    ],
)
def test_a_live_backbone_that_computes_something_else_is_caught(r50, r50_probe, backbone, stage):
    state = r50.state_dict()
    if "avg_down" in backbone:  # the convolution moves behind an average pool, and so do the names
        state = {
            k.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): v
            for k, v in state.items()
        }
    found = compare_probe(probe_live(Detector(state, **backbone), r50_probe), r50_probe)
    if "avg_down" in backbone:
        stage = "layer2"  # layer1 has stride 1: averaging over one pixel is none
    assert next(iter(found)) == stage, found


def test_another_stem_is_caught(r50, r50_probe):
    model = Detector(r50.state_dict())
    model.backbone.maxpool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    assert "the map is" in compare_probe(probe_live(model, r50_probe), r50_probe)["layer1"]
    model.backbone.maxpool = nn.AvgPool2d(3, 2, padding=1)
    assert "layer1" in compare_probe(probe_live(model, r50_probe), r50_probe)


@pytest.mark.parametrize(
    "preprocessor",
    [
        {"bgr_to_rgb": False},
        {"mean": [103.53, 116.28, 123.675]},
        {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"std": [1.0, 1.0, 1.0]},
        {"std": [58.395, 57.12, 58.395]},
        {"mean": [123.675, 116.28, 104.53]},
    ],
)
def test_another_preprocessing_is_caught(r50, r50_probe, preprocessor):
    found = compare_probe(probe_live(Detector(r50.state_dict(), preprocessor), r50_probe), r50_probe)
    assert "layer1" in found


@pytest.mark.parametrize("change", [{"channel_order": "bgr"}, {"scale": "0-1"}])
def test_the_stated_preprocessing_enters_the_probe(r50, r50_probe, change):
    other = compute_probe(r50, dataclasses.replace(RGB, **change))
    assert "layer1" in compare_probe(other.stages, r50_probe)


def test_two_ways_to_state_one_preprocessing_are_one(r50, r50_probe):
    unit = dataclasses.replace(RGB, scale="0-1", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert compare_probe(compute_probe(r50, unit).stages, r50_probe) == {}


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet152", marks=pytest.mark.slow)])
def test_eps_is_caught_at_any_depth(name):
    net = network(name)
    probe = compute_probe(net, RGB)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    found = compare_probe(compute_probe(net, RGB).stages, probe)
    assert list(found) == ["layer1", "layer2", "layer3", "layer4"]


def test_other_weights_are_caught(r50_probe):
    assert "layer1" in compare_probe(compute_probe(network(seed=1), RGB).stages, r50_probe)


# ---- what must not fire --------------------------------------------------------------------------------------------


def test_a_faithful_detector_agrees(r50, r50_probe):
    for settings in ({}, {"frozen_stages": 4, "norm_eval": True}, {"out_indices": (3,)}, {"with_cp": True}):
        model = Detector(r50.state_dict(), **settings)
        live = probe_live(model, r50_probe)
        assert compare_probe(live, r50_probe) == {}
        assert largest_difference(r50_probe, live) < TOLERANCE / 10


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet152", marks=pytest.mark.slow)])
def test_rounding_is_far_below_the_tolerance(name):
    net = network(name)
    probe = compute_probe(net, RGB)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        differences = [largest_difference(probe, compute_probe(net, RGB).stages)]
    finally:
        torch.set_num_threads(threads)
    with torch.backends.mkldnn.flags(enabled=False):  # other kernels
        differences.append(largest_difference(probe, compute_probe(net, RGB).stages))
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    differences.append(largest_difference(probe, compute_probe(last, RGB).stages))
    assert max(differences) < TOLERANCE / 10


def test_another_device_and_type_are_brought_to_plain_fp32(r50, r50_probe):
    wide = copy.deepcopy(r50).double()
    assert largest_difference(r50_probe, compute_probe(wide, RGB).stages) < TOLERANCE / 10
    assert next(wide.parameters()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert largest_difference(r50_probe, compute_probe(r50, RGB).stages) < TOLERANCE / 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_the_gpu_agrees(r50, r50_probe):
    model = Detector(r50.state_dict()).cuda()
    assert largest_difference(r50_probe, probe_live(model, r50_probe)) < TOLERANCE / 10
    assert next(model.parameters()).is_cuda


def test_the_precision_settings_of_the_user_come_back(r50, r50_probe):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert largest_difference(r50_probe, compute_probe(r50, RGB).stages) < TOLERANCE / 10
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


# ---- it leaves no trace --------------------------------------------------------------------------------------------


def test_the_model_and_the_random_generators_are_left_as_they_were(r50, r50_probe):
    model = Detector(r50.state_dict(), norm_eval=False)
    model.train()
    model.backbone.layer2[0].bn1.eval()  # a mode of one's own, which train(True) would undo
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    probe_live(model, r50_probe)
    compute_probe(model.backbone, RGB)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(p.grad is None for p in model.parameters())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_a_failing_forward_leaves_no_trace_either(r50_probe):
    model = Detector(network().state_dict())
    model.train()
    model.backbone.layer3 = nn.Linear(3, 3)
    modes = [m.training for m in model.modules()]
    with pytest.raises(BackboneMismatchError, match="does not take an image"):
        probe_live(model, r50_probe)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


# ---- other networks and refusals -----------------------------------------------------------------------------------


def test_networks_without_stages_are_probed_at_their_pooled_output():
    small = dataclasses.replace(RGB, input_size=(32, 32))
    probe = compute_probe(network("resnet20"), small)
    assert probe.input == "sosr-probe-1:32x32"
    assert list(probe.stages) == ["pooled"]
    assert probe.stages["pooled"][0] == 64
    assert compare_probe(compute_probe(network("resnet20"), small).stages, probe) == {}
    assert compare_probe(compute_probe(network("resnet20", seed=1), small).stages, probe).keys() == {"pooled"}


def test_a_classifier_of_ours_is_probed_live():
    from mmengine.registry import MODELS

    model = MODELS.build(
        {
            "type": "BackboneClassifier", "backbone": {"arch": "resnet20"}, "num_classes": 3,
            "loss": {"type": "CrossEntropy"},
            "data_preprocessor": {"type": "ClassificationPreprocessor", "mean": RGB.mean, "std": RGB.std},
        }
    )  # fmt: skip
    small = dataclasses.replace(RGB, input_size=(32, 32))
    probe = compute_probe(model.backbone, small)
    assert compare_probe(probe_live(model, probe), probe) == {}
    model.data_preprocessor.mean.add_(1)
    assert compare_probe(probe_live(model, probe), probe) != {}


def test_a_model_that_does_not_normalise_needs_the_entrys_preprocessing(r50, r50_probe):
    model = Detector(r50.state_dict())
    model.data_preprocessor = nn.Identity()
    with pytest.raises(BackboneMismatchError, match="does not normalise"):
        probe_live(model, r50_probe)
    assert compare_probe(probe_live(model, r50_probe, preprocessing=RGB), r50_probe) == {}


def test_features_that_are_not_finite_are_refused():
    net = network("resnet18")
    net.bn1.weight.data[3] = float("nan")
    with pytest.raises(BackboneMismatchError, match="not finite"):
        compute_probe(net, RGB)


def test_the_image_of_a_newer_version_is_refused(r50):
    with pytest.raises(BackboneMismatchError, match=r"sosr-probe-2.*Upgrade"):
        probe_live(Detector(r50.state_dict()), Probe("sosr-probe-2", {}))


@pytest.mark.parametrize(("difference", "fires"), [(0.9e-4, False), (1.1e-4, True), (float("nan"), True)])
def test_both_sides_of_the_tolerance(difference, fires):
    stored = (64.0, 3.0, 3.0, 2.0, 1.0, 1.0)
    live = (64.0, 3.0, 3.0, 2.0, 1.0 + 2 * difference, 1.0)
    assert bool(compare_probe({"layer1": live}, Probe("sosr-probe-1", {"layer1": stored}))) == fires


def test_a_stage_that_the_live_network_lacks_is_named(r50_probe):
    live = {stage: values for stage, values in r50_probe.stages.items() if stage != "layer4"}
    assert compare_probe(live, r50_probe) == {"layer4": "the live network has no such stage"}
