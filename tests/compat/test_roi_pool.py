"""roi_pool against a loop over single pixels, and gradcheck. mmcv has no compiled version for CPUs."""

import math

import mmcv.ops
import pytest
import torch


def slow_roi_pool(
    features: torch.Tensor, rois: torch.Tensor, size: tuple[int, int], scale: float
) -> torch.Tensor:
    _, channels, height, width = features.shape
    output = torch.zeros(len(rois), channels, *size, dtype=features.dtype)
    for region, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for bin_y in range(size[0]):
            for bin_x in range(size[1]):
                pixels = [
                    (y, x)
                    for y in range(
                        max(0, math.floor(y1 + bin_y * (y2 - y1) / size[0])),
                        min(height, math.ceil(y1 + (bin_y + 1) * (y2 - y1) / size[0])),
                    )
                    for x in range(
                        max(0, math.floor(x1 + bin_x * (x2 - x1) / size[1])),
                        min(width, math.ceil(x1 + (bin_x + 1) * (x2 - x1) / size[1])),
                    )
                ]
                for channel in range(channels):
                    values = [float(features[int(image), channel, y, x]) for y, x in pixels]
                    output[region, channel, bin_y, bin_x] = max(values, default=0.0)
    return output


def some_rois(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return regions inside, across the border, outside, overlapping, and ending before they start."""
    return torch.tensor(
        [
            [0, 1.3, 2.1, 8.7, 7.9],
            [1, -4.2, -3.1, 5.3, 6.2],
            [1, 6.2, 4.4, 17.7, 15.6],
            [1, 6.0, 4.0, 16.0, 15.0],
            [0, 40, 40, 50, 50],
            [0, 5.5, 5, 4.3, 7],
            [1, 3, 3, 3, 3],
        ],
        dtype=dtype,
    )


@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_values_equal_the_loop(generator, scale):
    features = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64) - 3  # mostly negative maxima
    pooled = mmcv.ops.roi_pool(features, some_rois(), (3, 2), scale)
    torch.testing.assert_close(pooled, slow_roi_pool(features, some_rois(), (3, 2), scale), rtol=0, atol=0)


def test_gradient(generator):
    features = torch.randn(2, 2, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mmcv.ops.RoIPool((2, 3), 0.6), (features, some_rois()))


def test_equal_pixels_send_the_gradient_to_the_first():
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    mmcv.ops.roi_pool(features, torch.tensor([[0.0, 1, 1, 2, 2]]), 1).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 1, 1]]


def test_region_without_extent_has_no_gradient():
    features = torch.randn(1, 1, 4, 4, requires_grad=True)
    mmcv.ops.roi_pool(features, torch.tensor([[0.0, 3, 3, 1, 1]]), 2).sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_no_regions():
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    pooled = mmcv.ops.roi_pool(features, torch.zeros(0, 5), (2, 2))
    assert pooled.shape == (0, 2, 2, 2)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_exact(generator, dtype):
    features = torch.randn(2, 2, 6, 7, generator=generator).to(dtype).requires_grad_()
    pooled = mmcv.ops.roi_pool(features, some_rois(dtype), (2, 2), 0.5)
    assert torch.equal(pooled, slow_roi_pool(features.detach(), some_rois(dtype), (2, 2), 0.5))
    pooled.sum().backward()
    assert features.grad.dtype == dtype
