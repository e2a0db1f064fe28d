"""Batched crop, flip and per-image transforms: torchvision's pixels, torchvision's distribution, own draws."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import sosr_det.register  # noqa: F401
from sosr_det.data.batch_augment import BatchRandomCrop, BatchRandomHorizontalFlip, PerImage
from sosr_det.errors import ConfigError, DataError


def noise(count, height=12, width=10):
    return torch.randint(
        256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


def one_image(count, size=12):
    """Copies of an image whose pixels hold their own row and column, counted from 1."""
    rows = torch.arange(1, size + 1, dtype=torch.uint8)
    image = torch.stack(
        [rows[:, None].expand(size, size), rows[None].expand(size, size), torch.full((size, size), 9)]
    )
    return image.to(torch.uint8).expand(count, -1, -1, -1).contiguous()


def seen_draw(image, padding):
    """(row offset, column offset, flipped) that made a crop of :func:`one_image`, read from its middle pixels."""
    middle = image.shape[-1] // 2
    row, left, right = (int(v) for v in (image[0, middle, middle], *image[1, middle, middle : middle + 2]))
    flipped = right < left
    column = left - middle - 1 if not flipped else left - (image.shape[-1] - 1 - middle) - 1
    return row - middle - 1 + padding, column + padding, flipped


@pytest.mark.parametrize("fill", [0, (7, 80, 255)])
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_every_crop_has_torchvisions_pixels(mode, fill):
    padding = 4
    offsets = torch.tensor(list(product(range(2 * padding + 1), repeat=2)))
    images = noise(len(offsets))
    colour = list(fill) if isinstance(fill, tuple) else fill
    got = BatchRandomCrop(padding, mode, fill).crop(images, offsets)
    for image, (top, left), crop in zip(images, offsets.tolist(), got, strict=True):
        padded = F.pad(image, [padding], fill=colour if mode == "constant" else 0, padding_mode=mode)
        assert torch.equal(crop, F.crop(padded, top, left, 12, 10)), (top, left)


def test_reflection_up_to_half_the_image():
    images = noise(49, 7, 9)
    offsets = torch.tensor(list(product(range(7), repeat=2)))
    got = BatchRandomCrop(3, "reflect").crop(images, offsets)
    for image, (top, left), crop in zip(images, offsets.tolist(), got, strict=True):
        assert torch.equal(crop, F.crop(F.pad(image, [3], padding_mode="reflect"), top, left, 7, 9))
    with pytest.raises(ConfigError, match=r"cannot reflect 4 pixels of images of 7 x 9; use padding up to 3"):
        BatchRandomCrop(4, "reflect")(images)


@pytest.mark.parametrize(
    ("padding", "height", "width"), [(9, 3, 5), (4, 3, 9), (4, 9, 3), (5, 5, 5), (12, 1, 1)]
)
def test_constant_padding_larger_than_the_image(padding, height, width):
    offsets = torch.tensor(list(product(range(2 * padding + 1), repeat=2)))
    images = noise(len(offsets), height, width)
    got = BatchRandomCrop(padding, fill=(7, 80, 255)).crop(images, offsets)
    empty = torch.tensor([7, 80, 255], dtype=torch.uint8)[:, None, None].expand(3, height, width)
    assert torch.equal(got[0], empty)  # the far corner shows nothing of the image
    for image, (top, left), crop in zip(images, offsets.tolist(), got, strict=True):
        padded = F.pad(image, [padding], fill=[7, 80, 255])
        assert torch.equal(crop, F.crop(padded, top, left, height, width)), (top, left)
    assert BatchRandomCrop(padding)(images).shape == images.shape
    with pytest.raises(
        ConfigError, match=rf"cannot reflect {padding} pixels of images of {height} x {width}"
    ):
        BatchRandomCrop(padding, "reflect")(images)


def test_flip_has_torchvisions_pixels():
    images = noise(40)
    chosen = torch.arange(40) % 3 == 0
    got = BatchRandomHorizontalFlip().flip(images, chosen)
    for image, flip, result in zip(images, chosen.tolist(), got, strict=True):
        assert torch.equal(result, F.horizontal_flip(image) if flip else image)


@pytest.mark.parametrize("p", [0, 1])
def test_flip_probability_ends(p):
    images = noise(64)
    expected = F.horizontal_flip(images) if p else images
    assert torch.equal(BatchRandomHorizontalFlip(p)(images), expected)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_every_offset_and_flip_is_equally_likely_as_in_torchvision(mode, looks_uniform):
    padding, size = 2, 12
    cells = list(product(range(2 * padding + 1), range(2 * padding + 1), (False, True)))
    torch.manual_seed(0)
    images = one_image(5000, size)
    ours = BatchRandomHorizontalFlip()(BatchRandomCrop(padding, mode)(images))
    assert looks_uniform([seen_draw(image, padding) for image in ours], cells)
    theirs = v2.Compose([v2.RandomCrop(size, padding=padding, padding_mode=mode), v2.RandomHorizontalFlip()])
    assert looks_uniform([seen_draw(theirs(image), padding) for image in images[:1000]], cells)


def test_an_uneven_spread_is_noticed(looks_uniform):
    torch.manual_seed(0)
    padding = 2
    rounded = (torch.rand(5000, 2) * 2 * padding).round().long()  # the ends get half a chance
    crops = BatchRandomCrop(padding).crop(one_image(5000), rounded)
    draws = [seen_draw(image, padding)[:2] for image in crops]
    assert not looks_uniform(draws, product(range(2 * padding + 1), repeat=2))
    never_last = torch.randint(0, 2 * padding, (5000, 2))
    draws = [
        seen_draw(image, padding)[:2] for image in BatchRandomCrop(padding).crop(one_image(5000), never_last)
    ]
    assert not looks_uniform(draws, product(range(2 * padding + 1), repeat=2))


class OneDrawForAll(BatchRandomCrop):
    """The mistake: one offset for the whole batch."""

    def forward(self, images):
        return self.crop(images, torch.randint(0, 2 * self.padding + 1, (1, 2)).expand(len(images), 2))


@pytest.mark.parametrize(("crop", "independent"), [(BatchRandomCrop(1), True), (OneDrawForAll(1), False)])
def test_images_of_a_batch_have_independent_draws(crop, independent, looks_uniform):
    torch.manual_seed(0)
    pair = one_image(2)
    draws = [tuple(seen_draw(image, 1)[:2] for image in crop(pair)) for _ in range(2000)]
    offsets = list(product(range(3), repeat=2))
    assert looks_uniform(draws, product(offsets, repeat=2)) == independent
    assert looks_uniform([first for first, _ in draws], offsets)  # alone, both look right


def test_the_given_batch_is_left_as_it_is():
    images = noise(32)
    before = images.clone()
    for step in (BatchRandomCrop(2), BatchRandomCrop(2, "reflect"), BatchRandomHorizontalFlip(1)):
        result = step(images)
        assert torch.equal(images, before)
        assert result.data_ptr() != images.data_ptr()
        assert result.dtype == torch.uint8


def test_seeds_reproduce():
    images = noise(32)
    step = v2.Compose([BatchRandomCrop(3), BatchRandomHorizontalFlip()])
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(step(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_per_image_is_the_transform_on_each_image_in_turn():
    images = noise(6, 32, 32)
    transform = {"type": "torchvision/AutoAugment", "policy": "cifar10"}
    step = TRANSFORMS.build({"type": "PerImage", "transform": transform})
    torch.manual_seed(5)
    got = step(images)
    torch.manual_seed(5)
    one_by_one = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    assert torch.equal(got, torch.stack([one_by_one(image) for image in images]))


def test_per_image_draws_anew_for_each_image():
    torch.manual_seed(0)
    batch = noise(1, 32, 32).expand(24, -1, -1, -1)
    step = TRANSFORMS.build({"type": "PerImage", "transform": {"type": "torchvision/RandAugment"}})
    results = step(batch)
    assert len({result.numpy().tobytes() for result in results}) > 12
    shared = step.transform(batch)  # the negative control: a v2 transform of the batch draws once
    assert len({result.numpy().tobytes() for result in shared}) == 1


@pytest.mark.parametrize(
    "transform",
    [v2.Resize(8), v2.ToDtype(torch.float32, scale=True), v2.ToPILImage()],
    ids=["size", "dtype", "type"],
)
def test_per_image_refuses_what_a_batch_cannot_hold(transform):
    with pytest.raises(DataError, match=r"PerImage: \w+ turned a uint8 image \[3, 32, 32\] into"):
        PerImage(transform)(noise(2, 32, 32))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"type": "torchvision/AutoAugment", "policy": "cifar100"},
            "'imagenet', 'cifar10', 'svhn', got 'cifar100'",
        ),
        ({"type": "BatchRandomCrop", "padding": -1}, "padding is in whole pixels, 0 or more, got -1"),
        ({"type": "BatchRandomCrop", "padding": 2.5}, "got 2.5"),
        (
            {"type": "BatchRandomCrop", "padding": 4, "padding_mode": "edge"},
            "'constant' or 'reflect', got 'edge'",
        ),
        ({"type": "BatchRandomCrop", "padding": 4, "fill": 300}, "BatchRandomCrop: fill must be .* got 300"),
        ({"type": "BatchRandomHorizontalFlip", "p": 1.5}, "0 .never. to 1 .always., got 1.5"),
        ({"type": "BatchRandomHorizontalFlip", "p": -0.1}, "got -0.1"),
        ({"type": "BatchRandomHorizontalFlip", "p": True}, "got True"),
    ],
)
def test_bad_arguments_are_named(config, named):
    with pytest.raises(ConfigError, match=named):
        TRANSFORMS.build(config)
