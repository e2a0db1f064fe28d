"""Cutout against the published loop, random erasing against torchvision's draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import sosr_det.register  # noqa: F401
from sosr_det.data.batch_erase import BatchCutout, BatchRandomErasing
from sosr_det.data.cutout import Cutout
from sosr_det.errors import ConfigError

FILL = (125, 123, 114)


def published_mask(height, width, length, y, x):
    """The mask of DeVries and Taylor's Cutout for one centre, pixel by pixel; true where the image stays."""
    mask = np.ones((height, width), bool)
    for row in range(height):
        for column in range(width):
            inside = y - length // 2 <= row < y + length // 2 and x - length // 2 <= column < x + length // 2
            mask[row, column] = not inside
    return mask


def white(count, height=12, width=9):
    return torch.full((count, 3, height, width), 255, dtype=torch.uint8)


def covered(image):
    """bool [H, W]: where the colour of the square is; every other pixel must still be white."""
    square = (image == torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)).all(0)
    assert ((image == 255).all(0) | square).all()
    return square.numpy()


@pytest.mark.parametrize("size", [2, 4, 8, 12, 16])
def test_cutout_covers_what_the_published_code_covers_at_every_centre(size):
    centres = torch.tensor(list(product(range(12), range(9))))
    for image, (y, x) in zip(
        BatchCutout(size, FILL).cut(white(len(centres)), centres), centres.tolist(), strict=True
    ):
        np.testing.assert_array_equal(~covered(image), published_mask(12, 9, size, y, x))


def test_an_odd_square_has_its_size():
    (image,) = BatchCutout(5, FILL).cut(white(1), torch.tensor([[6, 4]]))
    assert covered(image).sum() == 25


def batch_masks(count):
    return [covered(image) for image in BatchCutout(4, FILL)(white(count, 8, 6))]


def single_masks(count):
    cutout = Cutout(4, FILL)
    return [covered(cutout(image)) for image in white(count, 8, 6)]


def masks_inside_the_border(count):
    """The wrong distribution: squares that never touch the border's outside."""
    centres = torch.stack([torch.randint(2, 7, (count,)), torch.randint(2, 5, (count,))], 1)
    return [covered(image) for image in BatchCutout(4, FILL).cut(white(count, 8, 6), centres)]


@pytest.mark.parametrize(
    ("masks", "uniform"), [(batch_masks, True), (single_masks, True), (masks_inside_the_border, False)]
)
def test_cutouts_centre_is_uniform_over_all_pixels(masks, uniform, looks_uniform):
    torch.manual_seed(0)
    # Every centre has its own mask here, so the masks tell the centres.
    cells = [(~published_mask(8, 6, 4, y, x)).tobytes() for y, x in product(range(8), range(6))]
    assert len(set(cells)) == 48
    assert looks_uniform([mask.tobytes() for mask in masks(1500)], cells) == uniform


def test_cutout_of_a_pil_image_and_of_labels_beside_it():
    image = v2.functional.to_pil_image(white(1)[0])
    torch.manual_seed(1)
    cut, label = Cutout(4, FILL)(image, 3)
    torch.manual_seed(1)
    assert torch.equal(F.pil_to_tensor(cut), Cutout(4, FILL)(white(1)[0]))
    assert label == 3
    assert covered(F.pil_to_tensor(cut)).any()


def test_the_given_images_are_left_as_they_are():
    images = white(8)
    for step in (BatchCutout(4, FILL), BatchRandomErasing(1, value=FILL)):
        step(images)
        assert (images == 255).all()
    Cutout(4, FILL)(images[0])
    assert (images == 255).all()


def test_images_of_a_batch_are_cut_in_their_own_places():
    torch.manual_seed(0)
    for step in (BatchCutout(4, FILL), BatchRandomErasing(1, value=FILL)):
        assert len({covered(image).tobytes() for image in step(white(64, 16, 16))}) > 30


def rectangle(image):
    rows, columns = np.nonzero(covered(image))
    if not len(rows):
        return None
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top + 1, columns.max() - left + 1
    assert height * width == len(rows)
    return top, left, height, width


def erased_rectangles(step_of_ratio, count, ratio):
    torch.manual_seed(0)
    found = [rectangle(image) for image in step_of_ratio(ratio)(white(count, 48, 32))]
    assert sum(r is None for r in found) < 0.35 * count
    return np.array([r for r in found if r is not None])


def ours(ratio):
    return BatchRandomErasing(1, ratio=ratio, value=FILL)


def theirs(ratio):
    step = v2.RandomErasing(1, ratio=ratio, value=FILL)
    return lambda images: torch.stack([step(image) for image in images])


@pytest.mark.parametrize("ratio", [(0.3, 3.3), (1.0, 6.0)])  # the second often needs another attempt
def test_erased_rectangles_are_distributed_as_torchvisions(ratio):
    mine, peer = erased_rectangles(ours, 3000, ratio), erased_rectangles(theirs, 1500, ratio)
    for what, column in zip(("top", "left", "height", "width"), range(4), strict=True):
        assert ks_2samp(mine[:, column], peer[:, column]).pvalue > 1e-3, what
    assert ks_2samp(mine[:, 2] * mine[:, 3], peer[:, 2] * peer[:, 3]).pvalue > 1e-3


def test_another_distribution_of_rectangles_is_noticed():
    mine = erased_rectangles(ours, 3000, (0.3, 3.3))
    peer = erased_rectangles(theirs, 1500, (0.4, 3.3))
    assert min(ks_2samp(mine[:, c], peer[:, c]).pvalue for c in range(4)) < 1e-3


@pytest.mark.parametrize(("p", "low", "high"), [(0, 0, 0), (0.3, 230, 370), (1, 1000, 1000)])
def test_erasing_probability(p, low, high):
    torch.manual_seed(0)
    step = BatchRandomErasing(p, scale=(0.1, 0.2), ratio=(0.5, 2), value=FILL)
    assert low <= sum(covered(image).any() for image in step(white(1000, 16, 16))) <= high


def test_an_image_stays_where_no_rectangle_fits():
    images = white(16, 10, 10)
    assert torch.equal(BatchRandomErasing(1, scale=(0.9, 1), ratio=(4, 5))(images), images)


def test_random_values_are_uniform_and_each_images_own(looks_uniform):
    torch.manual_seed(0)
    step = BatchRandomErasing(1, scale=(0.3, 0.3), ratio=(1, 1), value="random")
    erased = step(torch.zeros(20, 3, 32, 32, dtype=torch.uint8))
    # round(sqrt(0.3) * 32) = 18 pixels each way; a drawn zero looks like no change, so zeros are left out.
    values = erased[erased > 0]
    assert abs(len(values) - 20 * 3 * 18 * 18 * 255 / 256) < 100
    assert looks_uniform(values.tolist(), range(1, 256))
    assert len({image.numpy().tobytes() for image in erased}) == 20


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"type": "Cutout", "size": 0, "fill": 0}, "Cutout: size is .* 1 or more, got 0"),
        ({"type": "BatchCutout", "size": 8.0, "fill": 0}, "BatchCutout: size is .* got 8.0"),
        ({"type": "BatchCutout", "size": 8, "fill": [1, 2]}, r"fill must be .* got \[1, 2\]"),
        ({"type": "BatchCutout", "size": 8, "fill": [1, 2, 256]}, r"each 0 to 255, got \[1, 2, 256\]"),
        ({"type": "Cutout", "size": 8, "fill": [0.49, "x", 0.44]}, "fill must be"),
        ({"type": "BatchRandomErasing", "p": 2}, "got 2"),
        ({"type": "BatchRandomErasing", "scale": [0.4, 0.2]}, "scale must be 0 < low <= high <= 1"),
        ({"type": "BatchRandomErasing", "scale": [0.1, 1.2]}, "scale must be"),
        ({"type": "BatchRandomErasing", "ratio": [0, 1]}, "ratio must be"),
        ({"type": "BatchRandomErasing", "value": "mean"}, "'random', got 'mean'"),
    ],
)
def test_bad_arguments_are_named(config, named):
    with pytest.raises(ConfigError, match=named):
        TRANSFORMS.build(config)


def test_fills_are_rounded_to_whole_grey_levels():
    (image,) = BatchCutout(30, [125.3, 122.6, 0]).cut(white(1), torch.tensor([[5, 5]]))
    assert image[:, 0, 0].tolist() == [125, 123, 0]
