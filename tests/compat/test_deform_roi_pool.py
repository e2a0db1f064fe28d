"""deform_roi_pool against a loop over single samples, gradcheck, and roi_align where nothing moves."""

import math

import mmcv.ops
import pytest
import torch

SIZE, SCALE = (2, 3), 0.7
# Inside, over the border (none ends within half a pixel of it, where the interpolation has a kink), a small one.
ROIS = torch.tensor(
    [[0, 1.3, 2.1, 8.7, 7.9], [1, -3.2, 0.4, 6.3, 12.2], [1, 4.0, 4.0, 4.6, 5.0]], dtype=torch.float64
)
GAMMA = 0.3


def sample(plane: torch.Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    total = 0.0
    for row in range(height):
        for column in range(width):
            total += float(plane[row, column]) * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
    return total


def slow_pool(features: torch.Tensor, offset: torch.Tensor | None, sampling_ratio: int) -> torch.Tensor:
    output = torch.zeros(len(ROIS), features.shape[1], *SIZE, dtype=features.dtype)
    for k, (image, *corners) in enumerate(ROIS.tolist()):
        left, top, right, bottom = (corner * SCALE - 0.5 for corner in corners)
        width, height = right - left, bottom - top
        rows = sampling_ratio or math.ceil(height / SIZE[0])
        columns = sampling_ratio or math.ceil(width / SIZE[1])
        for channel, plane in enumerate(features[int(image)]):
            for i in range(SIZE[0]):
                for j in range(SIZE[1]):
                    dx = GAMMA * width * float(offset[k, 0, i, j]) if offset is not None else 0
                    dy = GAMMA * height * float(offset[k, 1, i, j]) if offset is not None else 0
                    values = [
                        sample(
                            plane,
                            top + dy + (i + (row + 0.5) / rows) * height / SIZE[0],
                            left + dx + (j + (column + 0.5) / columns) * width / SIZE[1],
                        )
                        for row in range(rows)
                        for column in range(columns)
                    ]
                    output[k, channel, i, j] = sum(values) / len(values)
    return output


@pytest.fixture
def features(generator) -> torch.Tensor:
    """Return maps of another width than height."""
    return torch.randn(2, 2, 7, 6, generator=generator, dtype=torch.float64)


@pytest.fixture
def offset(generator) -> torch.Tensor:
    """Return movements that differ between bins."""
    return torch.randn(len(ROIS), 2, *SIZE, generator=generator, dtype=torch.float64)


def pool(features, offset, sampling_ratio):
    return mmcv.ops.deform_roi_pool(
        features, ROIS.to(features.dtype), offset, SIZE, SCALE, sampling_ratio, GAMMA
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("moves", [True, False])
def test_values(features, offset, sampling_ratio, moves):
    chosen = offset if moves else None
    torch.testing.assert_close(
        pool(features, chosen, sampling_ratio), slow_pool(features, chosen, sampling_ratio)
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients(features, offset, sampling_ratio):
    leaves = features.requires_grad_(), offset.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: pool(*inputs, sampling_ratio), leaves)


def test_bins_that_do_not_move_are_roi_align(features):
    aligned = mmcv.ops.roi_align(features, ROIS, SIZE, SCALE, 2, "avg", True)
    torch.testing.assert_close(pool(features, None, 2), aligned)
    torch.testing.assert_close(pool(features, torch.zeros(len(ROIS), 2, *SIZE), 2), aligned)


def test_no_regions(features):
    features.requires_grad_()
    output = mmcv.ops.deform_roi_pool(features, ROIS[:0], torch.zeros(0, 2, *SIZE), SIZE, SCALE, 0, GAMMA)
    assert output.shape == (0, 2, *SIZE)
    output.sum().backward()
    assert not features.grad.any()


def test_region_without_extent_is_zero(features):
    rois = torch.tensor([[0, 3.0, 3, 3, 5]], dtype=torch.float64)
    assert not mmcv.ops.deform_roi_pool(features, rois, None, SIZE, SCALE, 0, GAMMA).any()


@pytest.mark.parametrize("layer_type", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_layers_learn_to_move(layer_type):
    torch.manual_seed(0)
    layer = getattr(mmcv.ops, layer_type)(SIZE, 4, deform_fc_channels=8, sampling_ratio=2)
    features = torch.randn(2, 4, 7, 6, requires_grad=True)
    layer(features, ROIS.float()).square().sum().backward()
    # The last layer starts at zero, so it alone gets a gradient in the first step.
    assert layer.offset_fc[-1].weight.grad.any()
    assert features.grad.isfinite().all()
    assert features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keeps_reduced_precision(features, offset, dtype):
    features, offset = features.to(dtype).requires_grad_(), offset.to(dtype)
    output = pool(features, offset, 2)
    assert output.dtype == dtype
    output.sum().backward()
    assert features.grad.dtype == dtype
