"""Fast AutoAugment's operations against PIL's, as the published code calls it, and its random choices."""

from __future__ import annotations

import inspect
import json
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional as F

import sosr_det.register  # noqa: F401
from sosr_det.data import fast_autoaugment_ops
from sosr_det.data.fast_autoaugment import FastAutoAugment, published_policies
from sosr_det.data.fast_autoaugment_ops import CUTOUT_RGB, OPERATIONS, cutout_rectangle
from sosr_det.errors import ConfigError

AFFINE = Image.Transform.AFFINE
# What the public code (github.com/kakaobrain/fast-autoaugment) asks of PIL, after it drew the sign.
PUBLISHED = {
    "ShearX": lambda image, v: image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0)),
    "ShearY": lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0)),
    "TranslateX": lambda image, v: image.transform(image.size, AFFINE, (1, 0, v * image.size[0], 0, 1, 0)),
    "TranslateY": lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, v * image.size[1])),
    "Rotate": lambda image, v: image.rotate(v),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Solarize": lambda image, v: ImageOps.solarize(image, v),
    "Posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "Contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "Color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "Brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "Sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
}
# (low, high) of the public code's list.
RANGES = {
    "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3), "TranslateX": (-0.45, 0.45), "TranslateY": (-0.45, 0.45),
    "Rotate": (-30, 30), "AutoContrast": (0, 1), "Invert": (0, 1), "Equalize": (0, 1), "Solarize": (0, 256),
    "Posterize": (4, 8), "Contrast": (0.1, 1.9), "Color": (0.1, 1.9), "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9), "Cutout": (0, 0.2),
}  # fmt: skip
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
LEVELS = (0.0, 0.03, 0.213, 0.5, 0.661, 0.999, 1.0)


def drawn_pictures():
    """Two pictures with edges, slopes and noise, so that every operation has something to change."""
    for size, seed in (((32, 32), 0), ((64, 48), 1)):
        generator = np.random.default_rng(seed)
        ramp = np.linspace(20, 200, size[0])[None, :, None] * np.array([1, 0.8, 0.5])
        array = np.clip(ramp + generator.normal(0, 12, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        picture = Image.fromarray(array)
        ImageDraw.Draw(picture).rectangle((8, 6, 20, 18), (220, 40, 60))
        yield picture


@pytest.fixture(scope="module")
def real_pictures(unpacked):
    """CIFAR-10 and Tiny ImageNet images."""
    cifar = sorted(unpacked("cifar10").glob("test/*/*.jpg"))[::100]
    tiny = islice(sorted(unpacked("tiny-imagenet-200").glob("val/images/*.JPEG")), 10)
    return [Image.open(path).convert("RGB") for path in (*cifar, *tiny)]


def assert_operation_is_pils(name, picture):
    """PIL images: the same pixels. Tensors: within one grey level, or for geometry 0.5 % of the pixels at most
    (positions at a pixel's very edge, which float32 rounds to the other side)."""
    for level in LEVELS:
        value = OPERATIONS[name].value(level)
        expected = np.asarray(PUBLISHED[name](picture, value)).astype(int)
        np.testing.assert_array_equal(np.asarray(OPERATIONS[name].apply(picture, value)), expected)
        result = OPERATIONS[name].apply(F.pil_to_tensor(picture), value)
        assert result.dtype == torch.uint8
        difference = np.abs(result.permute(1, 2, 0).numpy() - expected).max(axis=2)
        if name in GEOMETRIC:
            assert (difference > 0).mean() <= 0.005, (name, level)
        else:
            assert difference.max() <= 1, (name, level)


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_pils(name):
    for picture in drawn_pictures():
        assert_operation_is_pils(name, picture)


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_pils_on_real_images(name, real_pictures):
    for picture in real_pictures:
        assert_operation_is_pils(name, picture)


@pytest.mark.parametrize(
    "name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Color", "Contrast"]
)
def test_the_tolerance_notices_another_value(name):
    picture = next(drawn_pictures())
    result = OPERATIONS[name].apply(F.pil_to_tensor(picture), OPERATIONS[name].value(0.9))
    wrong = -OPERATIONS[name].value(0.9) if name in GEOMETRIC else OPERATIONS[name].value(0.87)
    expected = np.asarray(PUBLISHED[name](picture, wrong)).astype(int)
    difference = np.abs(result.permute(1, 2, 0).numpy() - expected).max(axis=2)
    assert (difference > 0).mean() > 0.05 if name in GEOMETRIC else difference.max() > 1


def test_ranges_are_the_published_ones():
    assert {name: (op.value(0), op.value(1)) for name, op in OPERATIONS.items()} == RANGES
    assert {name for name, op in OPERATIONS.items() if op.random_sign} == set(GEOMETRIC)


@pytest.mark.parametrize("size", [32, 64, 33])
def test_cutout_is_pils_rectangle(size):
    generator = np.random.default_rng(0)
    for _ in range(300):
        part, x, y = generator.uniform(0, 0.2), generator.uniform(0, size), generator.uniform(0, size)
        side = part * size
        left, top = int(max(0, x - side / 2.0)), int(max(0, y - side / 2.0))
        expected = Image.new("RGB", (size, size))
        corners = (left, top, min(size, left + side), min(size, top + side))
        ImageDraw.Draw(expected).rectangle(corners, (125, 123, 114))
        found = cutout_rectangle(part, size, size, x, y)
        for image in (Image.new("RGB", (size, size)), torch.zeros(3, size, size, dtype=torch.uint8)):
            result = OPERATIONS["Cutout"].apply(image, found)
            pixels = (
                result.permute(1, 2, 0).numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
            )
            np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert cutout_rectangle(0.0, size, size, 5, 5) is None


def test_shipped_policies_are_the_published_numbers(shared_data):
    assert published_policies() == json.loads((shared_data / "fast_autoaugment_policies.json").read_text())


def test_shipped_policies_can_be_used():
    policies = published_policies()
    assert {name: len(policy) for name, policy in policies.items()} == {
        "fa_reduced_cifar10": 493,
        "fa_resnet50_rimagenet": 498,
    }
    for name, policy in policies.items():
        FastAutoAugment([list(map(tuple, sub_policy)) for sub_policy in policy])  # every number in its range
        assert TRANSFORMS.build({"type": "FastAutoAugment", "policy": name}).policy == policy
    assert {step[0] for policy in policies.values() for sub in policy for step in sub} == set(OPERATIONS)


def drawn_steps(policy, count, size=(32, 32)):
    torch.manual_seed(0)
    transform = FastAutoAugment(policy)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    return [transform.make_params([image])["steps"] for _ in range(count)]


def test_sub_policies_are_equally_likely(looks_uniform):
    levels = [0.1, 0.3, 0.5, 0.7, 0.9] * 5
    policy = [[("Color", 1.0, (level + number) / 26)] for number, level in enumerate(levels)]
    values = [OPERATIONS["Color"].value(sub_policy[0][2]) for sub_policy in policy]
    assert looks_uniform([steps[0][1] for steps in drawn_steps(policy, 3000)], values)


def test_probabilities_signs_and_order():
    policy = [[("Rotate", 0.8, 0.9), ("Invert", 0.25, 0.5), ("ShearX", 1.0, 0.25), ("Color", 0.0, 0.5)]]
    draws = drawn_steps(policy, 4000)
    names = [[name for name, _ in steps] for steps in draws]
    assert all(n == sorted(n, key=["Rotate", "Invert", "ShearX"].index) for n in names)
    # Four standard deviations of each frequency, 2.5 % and less.
    for name, probability in (("Rotate", 0.8), ("Invert", 0.25), ("ShearX", 1.0), ("Color", 0.0)):
        spread = 4 * (probability * (1 - probability) / 4000) ** 0.5
        assert abs(sum(name in n for n in names) / 4000 - probability) <= spread, name
    for name, size in (("Rotate", 24.0), ("ShearX", 0.15)):
        values = np.array([value for steps in draws for step, value in steps if step == name])
        np.testing.assert_allclose(np.abs(values), size, rtol=1e-12)
        assert abs((values > 0).mean() - 0.5) < 0.04, name
    both = [sum(n in names_of for n in ("Rotate", "Invert")) == 2 for names_of in names]
    assert abs(np.mean(both) - 0.2) < 0.03  # drawn independently
    values = {value for steps in draws for step, value in steps if step == "Invert"}
    assert values == {0.5}


def test_cutouts_colour_is_what_its_comment_says():
    """CIFAR-10's mean, not ImageNet's; the pixels are in `test_cutout_is_pils_rectangle`."""
    from torchvision.models import ResNet18_Weights

    cifar10 = (0.49140, 0.48216, 0.44653)  # of the training set, as torchvision's and Keras' users have it
    assert tuple(round(255 * mean) for mean in cifar10) == CUTOUT_RGB
    imagenet = ResNet18_Weights.DEFAULT.transforms().mean
    assert tuple(round(255 * mean) for mean in imagenet) != CUTOUT_RGB
    comment = inspect.getsource(fast_autoaugment_ops).partition("CUTOUT_RGB =")[0].rpartition("\n\n")[2]
    assert "CIFAR-10" in comment
    assert "ImageNet" not in comment


def test_cutouts_place_is_drawn_as_published(looks_uniform):
    """numpy's ``uniform(w)`` means between w and 1: a square below a pixel never covers the first row or column."""
    steps = drawn_steps([[("Cutout", 1.0, 1e-6)]], 2000, (6, 9))
    boxes = [value for ((_, value),) in steps]
    assert looks_uniform(
        [(box.top, box.left) for box in boxes], [(y, x) for y in range(1, 6) for x in range(1, 9)]
    )
    assert {(box.bottom - box.top, box.right - box.left) for box in boxes} == {(1, 1)}


def test_same_draws_for_tensors_and_pil_images(real_pictures):
    transform = FastAutoAugment()
    changed = 0
    for seed, picture in enumerate(real_pictures):
        torch.manual_seed(seed)
        as_pil = F.pil_to_tensor(transform(picture)).int()
        torch.manual_seed(seed)
        image = F.pil_to_tensor(picture)
        before = image.clone()
        as_tensor = transform(image).int()
        assert torch.equal(image, before)
        # Two operations in turn may widen one grey level's difference; most pixels stay equal.
        assert ((as_pil - as_tensor).abs() > 8).float().mean() < 0.02
        changed += bool((as_tensor != before).any())
    assert changed > len(real_pictures) / 2


def test_seeds_reproduce():
    image = F.pil_to_tensor(next(drawn_pictures()))
    transform = FastAutoAugment("fa_resnet50_rimagenet")
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(torch.stack([transform(image) for _ in range(10)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ("fa_cifar", "unknown policy 'fa_cifar'; published are fa_reduced_cifar10, fa_resnet50_rimagenet"),
        ([], "no sub-policy"),
        ([[("Blur", 0.5, 0.5)]], "sub-policy 0 has the step .'Blur'"),
        ([[("Color", 0.5, 0.5)], [("Color", 0.5)]], "sub-policy 1 has the step"),
        ([[("Color", 1.5, 0.5)]], "Color: probability must be 0 to 1, got 1.5"),
        ([[("Color", 0.5, -0.5)]], "Color: level must be 0 to 1, got -0.5"),
    ],
)
def test_bad_policies_are_named(policy, named):
    with pytest.raises(ConfigError, match=named):
        TRANSFORMS.build({"type": "FastAutoAugment", "policy": policy})
