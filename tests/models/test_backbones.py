"""The factory: names that transfer, errors that help, weights as the source draws them, the way into the registry."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
import torch
import torchvision
from pytorchcv.model_provider import get_model
from torch import nn

import sosr_det.register  # noqa: F401
from sosr_det.engine.publishing import export_run
from sosr_det.errors import ConfigError, InstallationError
from sosr_det.models import (
    BackboneClassifier,
    available_backbones,
    build_backbone,
    imagenet_resnets,
    small_images,
)
from sosr_det.models.cifar_networks import SPECS as CIFAR_SPECS
from sosr_det.registry import Registry

PREPROCESSOR = {
    "type": "ClassificationPreprocessor",
    "mean": [125.3, 123.0, 113.9],
    "std": [63.0, 62.1, 66.7],
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("a backbone tried to reach the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def classifier(arch, init_cfg=None, **loss):
    return BackboneClassifier(
        backbone={"arch": arch, "init_cfg": init_cfg},
        num_classes=5,
        loss={"type": "SOSRLoss", **loss},
        data_preprocessor=PREPROCESSOR,
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet_50", "resnet50"),
        ("resnet56_cifar100", "resnet56"),
        ("mobilenetv2", "mobilenetv2_32px"),
        ("vgg19_bn", "timm/vgg19_bn, vgg19_bn_32px"),
        ("efficientnet_b0", "timm/efficientnet_b0"),
        ("", "wrn28_10"),
        (None, "did you mean"),
        (50, "resnet50"),
        (["resnet50"], "did you mean"),
        ("timm/resnet_50", "timm/resnet50"),
        ("timm/resnet50.a1_in1k", r"the tag after the dot .*Use 'timm/resnet50'"),
        ("timm/hf-hub:timm/resnet50", "no model 'hf-hub:timm/resnet50'"),
        ("timm/tv_resnet50", "did you mean.*timm/"),  # a name that timm has withdrawn
        ("timm/", r"list_models"),
    ],
)
def test_unknown_names_list_near_ones(name, said):
    with pytest.raises(ConfigError, match=said):
        build_backbone(name)


def test_names_are_listed_without_importing_a_model_library():
    code = (
        "import sys\nfrom sosr_det.models import available_backbones, build_backbone\n"
        "assert len(available_backbones()) == 24\n"
        "assert not {'timm', 'pytorchcv'} & set(sys.modules)\n"
        "build_backbone('resnet20')\nassert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


PUBLISHED_IN_SOURCE = [
    *imagenet_resnets.SPECS,
    *(name for name in CIFAR_SPECS if not name.endswith("_bottleneck")),
]


@pytest.mark.parametrize("name", PUBLISHED_IN_SOURCE)
def test_weights_are_drawn_as_the_source_draws_them(name):
    torch.manual_seed(0)
    network, spec = build_backbone(name)
    torch.manual_seed(0)
    if spec.source == "torchvision":
        source = torchvision.models.get_model(name, weights=None)
    else:
        source = get_model(f"{name}_cifar10")
    expected = source.state_dict()
    state = network.state_dict()
    assert set(expected) - set(state) <= {"fc.weight", "fc.bias", "output.weight", "output.bias"}
    for key, tensor in state.items():
        assert torch.equal(tensor, expected[key]), key


def test_vgg_is_drawn_he_normal_over_the_fan_out():
    # Its linear layers are never made, so the same seed gives other numbers than torchvision's constructor.
    network, _ = build_backbone("vgg19_bn_32px")
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    wide = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels >= 64]
    for convolution in wide:
        deviation = (2 / (9 * convolution.out_channels)) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.03)
        assert not convolution.bias.any()


def test_regnet_starts_every_batch_norm_at_1():
    network, _ = build_backbone("regnetx_200mf_32px")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 13 * 3 + 4
    assert all((m.weight == 1).all() for m in norms)


def test_another_layout_of_a_library_is_refused():
    network, _ = build_backbone("mobilenet_32px")  # its first stride is already dropped
    with pytest.raises(InstallationError, match="no stride 2"):
        small_images._drop_stride(network.features.init_block)


@pytest.mark.parametrize(
    ("name", "size", "num_features"),
    [
        ("timm/test_resnet", 64, 96),
        ("timm/mobilenetv3_small_050", 64, 1024),  # pooled features are widened before the classifier
        ("timm/test_vit", 160, 64),
    ],
)
def test_timm_models_by_name(name, size, num_features):
    import timm

    torch.manual_seed(0)
    network, spec = build_backbone(name)
    torch.manual_seed(0)
    source = timm.create_model(name.removeprefix("timm/"), num_classes=0)
    assert {k: v.shape for k, v in source.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = network.eval()(images)
        torch.testing.assert_close(features, source.eval()(images))
    assert features.shape == (2, spec.num_features) == (2, num_features)
    assert (spec.name, spec.source, spec.source_name) == (name, "timm", name.removeprefix("timm/"))
    assert "160x160" in spec.stem or "224x224" in spec.stem


@pytest.mark.parametrize("name", ["timm/test_resnet", "resnet20"])
def test_mmengine_does_not_draw_the_weights_again(name):
    model = classifier(name)
    before = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
    model.init_weights()
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", ["resnet20", "densenet100_k12_bc", "mobilenet_32px", "mobilenetv2_32px"])
def test_channels_last_images_give_the_same_features(name):
    torch.manual_seed(0)
    network = build_backbone(name)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        features = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_classifier_on_a_cifar_network_trains_with_sosr():
    torch.manual_seed(0)
    model = classifier("resnet20", threshold=0.05, weight=0.5)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        labels[0] = model(images)[0].argmax()  # one over-confident sample at P = 0.05
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total, logged = model.parse_losses(model(images, labels, mode="loss"))
    assert logged["overconfident_fraction"] > 0
    total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("name", ["resnet20", "regnetx_200mf_32px", "timm/test_vit"])
def test_any_backbone_goes_through_the_registry(name, tmp_path, monkeypatch):
    """Run record and checkpoint -> export -> load by URI under a new classifier, bit for bit."""
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    torch.manual_seed(0)
    model = classifier(name)
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"state_dict": model.state_dict()}, run / "epoch_1.pth")
    record = run_record(model)
    (run / "run.json").write_text(json.dumps(record))

    exported = export_run(run, "small@v1")
    entry = Registry().verify("sosr://small@v1")
    spec = model.backbone_spec
    arch = entry.manifest.arch
    assert (arch.name, arch.library, arch.style, arch.stem) == (name, spec.source, None, spec.stem)
    assert arch.feature_channels == spec.stage_channels
    loaded = Registry().load(exported["uri"])
    expected = model.backbone.state_dict()
    assert list(loaded) == sorted(expected)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)

    torch.manual_seed(1)
    other = classifier(name, {"type": "Pretrained", "checkpoint": "sosr://small@v1"})
    assert not all(torch.equal(t, expected[k]) for k, t in other.backbone.state_dict().items())
    other.init_weights()
    for key, tensor in other.backbone.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def run_record(model) -> dict:
    """As the engine's RunRecordHook writes it, reduced to what an export reads."""
    return {
        "schema_version": 1,
        "stage": "pretrain",
        "config_name": "small",
        "config_text": "model = dict()\n",
        "config_digest": hashlib.sha256(b"model = dict()\n").hexdigest(),
        "seed": 0,
        "library_versions": {"torch": torch.__version__},
        "git_commit": None,
        "backbone": None,
        "epochs": [{"epoch": 1, "val": {"accuracy/top1": 12.5}}],
        "data": {
            "train": {"type": "CIFAR", "fingerprint": "abc", "num_samples": 4, "classes": list("abcde")}
        },
        "model": {
            "backbone": model.backbone_spec.to_dict(),
            "preprocessing": {
                "channel_order": "rgb",
                "mean": PREPROCESSOR["mean"],
                "std": PREPROCESSOR["std"],
                "interpolation": "bilinear",
                "input_size": [32, 32],
            },
        },
    }


def test_every_name_is_in_the_list_once():
    names = available_backbones()
    assert len(names) == len(set(names))
    assert {"resnet18", "resnet56", "vgg19_bn_32px"} <= set(names)
