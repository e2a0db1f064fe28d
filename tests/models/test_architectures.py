"""Every architecture of the paper: published size, feature maps, its source's numbers, one real training step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from pytorchcv.model_provider import get_model
from torch import nn

from sosr_det.models import build_backbone


@dataclass(frozen=True)
class Published:
    """What an architecture's own paper says about its size.

    ``millions`` as printed there; ``num_classes`` of the network that it counts; ``beyond`` parameters that this
    network has and the counted one has not, with the reason; ``without_batch_norm`` where the table leaves them out.
    ``exact`` is our own count of the backbone alone, to notice any change.
    """

    millions: str
    num_classes: int
    source: str
    exact: int
    beyond: int = 0
    without_batch_norm: bool = False


# Projection instead of zero-padded shortcuts at the two units that stride: 1x1 convolutions and their batch norms.
PROJECTIONS = 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64

PUBLISHED = {
    # He et al. print no sizes for ImageNet; torchvision's model cards do.
    "resnet18": Published("11.69", 1000, "torchvision model card, num_params", 11_176_512),
    "resnet50": Published("25.56", 1000, "torchvision model card, num_params", 23_508_032),
    "resnet20": Published("0.27", 10, "arXiv:1512.03385, table 6", 271_824, beyond=PROJECTIONS),
    "resnet56": Published("0.85", 10, "arXiv:1512.03385, table 6", 855_120, beyond=PROJECTIONS),
    "resnet110": Published("1.7", 10, "arXiv:1512.03385, table 6", 1_730_064, beyond=PROJECTIONS),
    "densenet100_k12_bc": Published("0.8", 10, "arXiv:1608.06993, table 2", 765_732),
    "wrn28_10": Published("36.5", 10, "arXiv:1605.07146, table 4", 36_472_784),
    "mobilenet_32px": Published("4.2", 1000, "arXiv:1704.04861, table 8", 3_206_976),
    # The paper prints 3.4M; the authors' TF-slim table has the second decimal, and counts no batch norm.
    "mobilenetv2_32px": Published(
        "3.47", 1000, "TF-slim, nets/mobilenet/README.md", 2_223_872, without_batch_norm=True
    ),
    "regnetx_200mf_32px": Published("2.7", 1000, "arXiv:2003.13678, table of RegNetX", 2_315_792),
    # As CIFAR papers run it, with one linear layer; with the paper's own three see a test below.
    "vgg19_bn_32px": Published("20.04", 10, "github.com/bearpaw/pytorch-classification", 20_035_392),
}
# Their papers' figures need words; each has a test of its own below.
EXACT_ONLY = {"seresnet110": 1_744_302, "pyramidnet110_a48": 1_772_056, "pyramidnet110_a84": 3_903_436}

SIZE = {"resnet18": 224, "resnet50": 224}  # all others 32 px
PAPER = [*PUBLISHED, *EXACT_ONLY]

# Output of each stage at SIZE: module -> (channels, height = width). The sizes of the *_32px networks are those of
# the CIFAR re-implementations that sosr_det/models/small_images.py names.
MAPS = {
    "resnet18": {"layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)},
    "resnet50": {"layer1": (256, 56), "layer2": (512, 28), "layer3": (1024, 14), "layer4": (2048, 7)},
    **{
        name: {f"features.stage{i + 1}": (width, 32 >> i) for i, width in enumerate(widths)}
        for name, widths in {
            "resnet20": (16, 32, 64),
            "resnet56": (16, 32, 64),
            "resnet110": (16, 32, 64),
            "seresnet110": (16, 32, 64),
            "densenet100_k12_bc": (216, 300, 342),
            "wrn28_10": (160, 320, 640),
            "pyramidnet110_a48": (32, 48, 64),
            "pyramidnet110_a84": (44, 72, 100),
            "mobilenet_32px": (64, 128, 256, 512, 1024),
        }.items()
    },
    "mobilenetv2_32px": {
        "features.1": (16, 32),
        "features.3": (24, 32),
        "features.6": (32, 16),
        "features.10": (64, 8),
        "features.13": (96, 8),
        "features.16": (160, 4),
        "features.17": (320, 4),
    },
    "regnetx_200mf_32px": {"s1": (24, 32), "s2": (56, 32), "s3": (152, 16), "s4": (368, 8)},
    "vgg19_bn_32px": {
        "features.6": (64, 16),
        "features.13": (128, 8),
        "features.26": (256, 4),
        "features.39": (512, 2),
        "features.52": (512, 1),
    },
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("a backbone tried to reach the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def batch_norm_count(module: nn.Module) -> int:
    return sum(count(m) for m in module.modules() if isinstance(m, nn.BatchNorm2d))


def within_rounding(number: float, printed: str) -> bool:
    decimals = len(printed.partition(".")[2])
    return abs(number - float(printed)) <= 0.5 * 10**-decimals


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name):
    row = PUBLISHED[name]
    network, spec = build_backbone(name)
    total = count(network) + count(nn.Linear(spec.num_features, row.num_classes)) - row.beyond
    if row.without_batch_norm:
        total -= batch_norm_count(network)
    assert within_rounding(total / 1e6, row.millions), (
        f"{total} parameters, {row.source} says {row.millions}M"
    )
    assert count(network) == row.exact


def test_rounding_is_judged_on_both_sides():
    assert within_rounding(1.749, "1.7")
    assert within_rounding(1.651, "1.7")
    assert not within_rounding(1.751, "1.7")
    assert not within_rounding(1.649, "1.7")
    assert not within_rounding(0.8558, "0.85")  # ResNet-56 with projections: why `beyond` is needed


def test_vgg_with_its_papers_three_linear_layers_is_the_published_size():
    network, _ = build_backbone("vgg19_bn_32px")
    linear = sum((inputs + 1) * outputs for inputs, outputs in ((512 * 49, 4096), (4096, 4096), (4096, 1000)))
    without = count(network) - batch_norm_count(network)
    assert within_rounding((without + linear) / 1e6, "144")  # arXiv:1409.1556, table 2, network E


def test_squeeze_and_excitation_adds_what_its_paper_says():
    plain, _ = build_backbone("resnet110")
    network, _ = build_backbone("seresnet110")
    added = {n: p for n, p in network.named_parameters() if ".se." in n}
    weights = sum(p.numel() for n, p in added.items() if n.endswith("weight"))
    biases = sum(p.numel() for n, p in added.items() if n.endswith("bias"))
    # arXiv:1709.01507, equation 5: 2/r * sum over stages of N * C^2, with r = 16 and 18 units a stage.
    assert weights == 2 / 16 * 18 * (16**2 + 32**2 + 64**2)
    assert count(network) - count(plain) == weights + biases
    assert count(network) == EXACT_ONLY["seresnet110"]


@pytest.mark.parametrize(("alpha", "printed"), [(48, 1.7), (84, 3.8)])
def test_pyramidnet_is_the_one_of_its_authors_code(alpha, printed):
    def total(width_of, num_classes=10):
        width, parameters, before = 16.0, 3 * 16 * 9 + 2 * 16, 16
        for _ in range(54):
            width += alpha / 54
            now = width_of(width)
            parameters += 2 * before + 9 * before * now + 2 * now + 9 * now * now + 2 * now
            before = now
        return parameters + 2 * before + (before + 1) * num_classes

    network, spec = build_backbone(f"pyramidnet110_a{alpha}")
    ours = count(network) + count(nn.Linear(spec.num_features, 10))
    assert ours == total(
        round
    )  # github.com/jhkim89/PyramidNet (Lua), github.com/dyhan0920/PyramidNet-PyTorch
    assert count(network) == EXACT_ONLY[f"pyramidnet110_a{alpha}"]
    # Table 4 of arXiv:1610.02915 prints less than the authors' code has. Equation 2's floor is nearer to it.
    assert printed < total(math.floor) / 1e6 < ours / 1e6 < 1.05 * printed


@pytest.mark.parametrize("depth", [56, 110])
def test_the_authors_bottleneck_resnets(depth):
    # Their scripts: (depth - 2) / 9 units a stage of 1x1, 3x3, 1x1 convolutions, four times as wide at the end.
    parameters, before = 3 * 16 * 9 + 2 * 16, 16
    for width in (16, 32, 64):
        for unit in range((depth - 2) // 9):
            parameters += (
                before * width + 9 * width * width + 4 * width * width + 2 * (width + width + 4 * width)
            )
            if unit == 0:  # the projection, also in the first stage, where the width changes
                parameters += before * 4 * width + 2 * 4 * width
            before = 4 * width
    network, spec = build_backbone(f"resnet{depth}_bottleneck")
    assert count(network) == parameters
    train_one_step(network, spec.num_features, 32)


@pytest.mark.parametrize("name", PAPER)
def test_one_training_step(name):
    torch.manual_seed(0)
    network, spec = build_backbone(name)
    train_one_step(network, spec.num_features, SIZE.get(name, 32))


@pytest.mark.parametrize("name", ["resnet56", "resnet110"])
def test_one_training_step_at_the_size_of_tiny_imagenet(name):
    torch.manual_seed(0)
    network, spec = build_backbone(name)
    train_one_step(network, spec.num_features, 64)


def train_one_step(network: nn.Module, num_features: int, size: int) -> None:
    model = nn.Sequential(network, nn.Linear(num_features, 5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images, labels = torch.randn(2, 3, size, size), torch.tensor([1, 3])
    features = network(images)
    assert features.shape == (2, num_features)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model[1](features), labels)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    optimizer.step()
    unchanged = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert not unchanged, unchanged


@pytest.mark.parametrize("name", PAPER)
def test_strides_are_where_they_belong(name):
    network, spec = build_backbone(name)
    size = SIZE.get(name, 32)
    seen = {}
    for module_name in MAPS[name]:
        network.get_submodule(module_name).register_forward_hook(
            lambda module, args, output, key=module_name: seen.update({key: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, size, size))
    assert seen == {key: (channels, side, side) for key, (channels, side) in MAPS[name].items()}
    assert spec.stage_channels == tuple(channels for channels, _ in MAPS[name].values())


def live_batch_norm(network: nn.Module) -> nn.Module:
    """Give batch norm numbers as after training: at its initial 0 and 1 many mistakes would not show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def before_classifier(source: nn.Module, classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        source.eval()(images)
    handle.remove()
    return seen[0].flatten(1)


def source_of(name: str) -> tuple[nn.Module, nn.Module]:
    """The source library's network and its classifier, found without this project's tables."""
    if name in ("resnet18", "resnet50"):
        network = torchvision.models.get_model(name)
        return network, network.fc
    network = get_model(f"{name}_cifar100")
    return network, network.output


@pytest.mark.parametrize("name", [n for n in PAPER if not n.endswith("_32px")])
def test_features_are_the_sources_own(name):
    torch.manual_seed(0)
    network = live_batch_norm(build_backbone(name)[0])
    source, classifier = source_of(name)
    missing, unexpected = source.load_state_dict(network.state_dict(), strict=False)
    prefix = "fc" if name in SIZE else "output"
    assert (missing, unexpected) == ([f"{prefix}.weight", f"{prefix}.bias"], [])
    size = SIZE.get(name, 32)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = network(images)
    expected = before_classifier(source, classifier, images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["resnet56", "resnet110"])
def test_pooling_is_global_at_64_px(name):
    network = live_batch_norm(build_backbone(name)[0])
    images = torch.randn(2, 3, 64, 64)
    source = get_model(f"{name}_cifar10").eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="shape"):
        source(images)  # the 8x8 window leaves 9x9 positions, which is why it is replaced
    source.load_state_dict(network.state_dict(), strict=False)
    del source.features.final_pool
    with torch.no_grad():
        maps = source.features(images)
        assert maps.shape == (2, 64, 16, 16)
        torch.testing.assert_close(network(images), maps.mean((2, 3)), rtol=1e-4, atol=1e-4)


DROPPED_STRIDES = {
    "vgg19_bn_32px": set(),
    "mobilenet_32px": {"features.init_block.conv"},
    "mobilenetv2_32px": {"features.0.0", "features.2.conv.1.0"},
    "regnetx_200mf_32px": {
        "stem.conv",
        "s1.b1.conv2.conv",
        "s1.b1.downsample.conv",
        "s2.b1.conv2.conv",
        "s2.b1.downsample.conv",
    },
}


@pytest.mark.parametrize("name", DROPPED_STRIDES)
def test_nothing_but_strides_differs_from_the_published_network(name):
    torch.manual_seed(0)
    network = live_batch_norm(build_backbone(name)[0])
    source = {
        "vgg19_bn_32px": lambda: torchvision.models.vgg19_bn(init_weights=False),
        "mobilenet_32px": lambda: get_model("mobilenet_w1"),
        "mobilenetv2_32px": lambda: torchvision.models.mobilenet_v2(),
        "regnetx_200mf_32px": lambda: timm.create_model("regnetx_002"),
    }[name]()
    missing, unexpected = source.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected
    assert {n.rpartition(".")[0] for n in missing} <= {
        *("output", "classifier.0", "classifier.1", "classifier.3", "classifier.6", "head.fc")
    }

    convolutions = {n: m for n, m in source.named_modules() if isinstance(m, nn.Conv2d)}
    ours = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert list(ours) == list(convolutions)
    dropped = {n for n, m in ours.items() if m.stride != convolutions[n].stride}
    assert dropped == DROPPED_STRIDES[name]
    for key in dropped:
        assert (ours[key].stride, convolutions[key].stride) == ((1, 1), (2, 2))
        ours[key].stride = (2, 2)

    # With the strides put back it computes what the published network computes.
    if name == "vgg19_bn_32px":
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = source.eval().features(images).flatten(1)
    else:
        images = torch.randn(2, 3, 224, 224)
        classifier = [m for m in source.modules() if isinstance(m, nn.Linear)][-1]
        expected = before_classifier(source, classifier, images)
    with torch.no_grad():
        features = network(images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())
