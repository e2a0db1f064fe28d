"""roi_align against a loop over single samples, gradcheck, and the compiled op's outputs and gradients."""

import math

import mmcv.ops
import pytest
import torch

CASES = [
    (mode, aligned, sampling_ratio)
    for mode in ("avg", "max")
    for aligned in (True, False)
    for sampling_ratio in (0, 2)
]


def bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """One sample. Up to a pixel outside, the border repeats; further out is 0."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = float(plane[top, left]) * (1 - x + left) + float(plane[top, right]) * (x - left)
    lower = float(plane[bottom, left]) * (1 - x + left) + float(plane[bottom, right]) * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def slow_roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    mode: str,
    aligned: bool,
) -> torch.Tensor:
    output = torch.zeros(len(rois), features.shape[1], *size, dtype=features.dtype)
    for region, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_height, bin_width = height / size[0], width / size[1]
        rows, columns = sampling_ratio or math.ceil(bin_height), sampling_ratio or math.ceil(bin_width)
        for channel, plane in enumerate(features[int(image)]):
            for bin_y in range(size[0]):
                for bin_x in range(size[1]):
                    samples = [
                        bilinear(
                            plane,
                            y1 + (bin_y + (row + 0.5) / rows) * bin_height,
                            x1 + (bin_x + (column + 0.5) / columns) * bin_width,
                        )
                        for row in range(rows)
                        for column in range(columns)
                    ]
                    if samples:
                        pooled = max(samples) if mode == "max" else sum(samples) / len(samples)
                        output[region, channel, bin_y, bin_x] = pooled
    return output


def some_rois(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return regions inside, across the border, outside, and smaller than a pixel; in both images."""
    return torch.tensor(
        [
            [0, 1.3, 2.1, 8.7, 7.9],
            [1, -4.2, -3.1, 5.3, 6.2],
            [1, 6.2, 4.4, 17.7, 15.6],
            [0, 40, 40, 50, 50],
            [0, 3.1, 3.2, 3.3, 3.5],
        ],
        dtype=dtype,
    )


@pytest.mark.parametrize(("mode", "aligned", "sampling_ratio"), CASES)
def test_values_equal_the_loop(generator, mode, aligned, sampling_ratio):
    features = torch.randn(2, 2, 6, 7, generator=generator, dtype=torch.float64)
    arguments = (some_rois(), (3, 2), 0.6, sampling_ratio, mode, aligned)
    torch.testing.assert_close(mmcv.ops.roi_align(features, *arguments), slow_roi_align(features, *arguments))


@pytest.mark.parametrize(("mode", "aligned", "sampling_ratio"), CASES)
def test_gradient(generator, mode, aligned, sampling_ratio):
    features = torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    layer = mmcv.ops.RoIAlign((2, 3), 0.6, sampling_ratio, mode, aligned)
    assert torch.autograd.gradcheck(layer, (features, some_rois()))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_regions(mode):
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    pooled = mmcv.ops.roi_align(features, torch.zeros(0, 5), (2, 2), 1.0, 0, mode, True)
    assert pooled.shape == (0, 2, 2, 2)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_region_without_extent_is_zero_and_has_no_gradient(mode):
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    pooled = mmcv.ops.roi_align(features, torch.tensor([[0.0, 2, 2, 2, 2]]), (2, 2), 1.0, 0, mode, True)
    assert torch.equal(pooled, torch.zeros_like(pooled))
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_region_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="x2 < x1"):
        mmcv.ops.roi_align(torch.zeros(1, 1, 5, 5), torch.tensor([[0.0, 3, 1, 2, 4]]), (2, 2))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_keeps_its_dtype(generator, mode, dtype):
    features = torch.randn(2, 2, 6, 7, generator=generator).to(dtype).requires_grad_()
    arguments = (some_rois(torch.float32), (2, 2), 0.6, 2, mode, True)
    pooled = mmcv.ops.roi_align(features, *arguments)
    assert pooled.dtype == dtype
    expected = slow_roi_align(features.detach().double(), *arguments)
    torch.testing.assert_close(pooled.double(), expected, atol=0.02, rtol=0.02)
    pooled.sum().backward()
    assert features.grad.dtype == dtype


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_memory_format_does_not_matter(generator, mode):
    features = torch.randn(2, 3, 6, 7, generator=generator)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = features.clone(memory_format=memory_format).requires_grad_()
        pooled = mmcv.ops.roi_align(leaf, some_rois(torch.float32), (2, 3), 0.6, 0, mode, True)
        # A transposed gradient is not contiguous either.
        pooled.transpose(2, 3).square().sum().backward()
        results.append((pooled.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("mode", "aligned", "sampling_ratio"), CASES)
def test_equals_the_compiled_op(golden, golden_gradient, mode, aligned, sampling_ratio):
    features = golden("feat/feat").requires_grad_()
    pooled = mmcv.ops.roi_align(features, golden("rois/rois"), (3, 5), 0.8, sampling_ratio, mode, aligned)
    pooled.backward(golden_gradient(pooled))
    case = f"roi_align/{mode}_aligned{aligned:d}_sampling{sampling_ratio}"
    # Average pooling runs the same arithmetic; for the maximum, sample positions are rounded differently.
    tolerance = 0 if mode == "avg" else 1e-5
    torch.testing.assert_close(pooled.detach(), golden(f"{case}/output"), rtol=0, atol=tolerance)
    torch.testing.assert_close(features.grad, golden(f"{case}/grad"), rtol=0, atol=tolerance)
