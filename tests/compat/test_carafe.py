"""CARAFE against a loop over output pixels, in value and gradient, and as mmcv's upsampling layer runs it."""

import mmcv.ops
import pytest
import torch
from mmcv.ops.carafe import CARAFEPack, carafe, carafe_naive

from sosr_det.compat.carafe import carafe_naive_backward

KERNEL, GROUPS, SCALE = 3, 2, 2


def slow_carafe(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """One output pixel at a time; differentiable, so that it also gives the expected gradients."""
    batch, channels, height, width = features.shape
    rows = []
    for n in range(batch):
        for channel in range(channels):
            group = channel // (channels // GROUPS)
            for y in range(height * SCALE):
                for x in range(width * SCALE):
                    total = features.new_zeros(())
                    for dy in range(KERNEL):
                        for dx in range(KERNEL):
                            row, column = y // SCALE + dy - KERNEL // 2, x // SCALE + dx - KERNEL // 2
                            if 0 <= row < height and 0 <= column < width:
                                weight = masks[n, group * KERNEL**2 + dy * KERNEL + dx, y, x]
                                total = total + features[n, channel, row, column] * weight
                    rows.append(total)
    return torch.stack(rows).view(batch, channels, height * SCALE, width * SCALE)


@pytest.fixture
def inputs(generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and masks of a map that is not square."""
    features = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    masks = torch.randn(2, GROUPS * KERNEL**2, 3 * SCALE, 2 * SCALE, generator=generator, dtype=torch.float64)
    return features.requires_grad_(), masks.requires_grad_()


def test_values_and_gradients(inputs, generator):
    output, expected = carafe(*inputs, KERNEL, GROUPS, SCALE), slow_carafe(*inputs)
    torch.testing.assert_close(output, expected)
    gradient = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    for actual, wanted in zip(
        torch.autograd.grad(output, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)


def test_naive_is_the_same(inputs):
    output = carafe_naive(*inputs, KERNEL, GROUPS, SCALE)
    torch.testing.assert_close(output, slow_carafe(*inputs))
    # mmcv's own backward insists on CUDA before it calls the op, so the op is called here.
    expected = torch.autograd.grad(slow_carafe(*inputs).sum(), inputs)
    gradients = [torch.zeros_like(tensor) for tensor in inputs]
    carafe_naive_backward(torch.ones_like(output), *inputs, *gradients, KERNEL, GROUPS, SCALE)
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision(inputs, dtype):
    features, masks = (tensor.detach().to(dtype).requires_grad_() for tensor in inputs)
    output = carafe(features, masks, KERNEL, GROUPS, SCALE)
    assert output.dtype == dtype
    torch.testing.assert_close(
        output.double(), slow_carafe(features.double(), masks.double()), atol=0.05, rtol=0.02
    )
    output.sum().backward()
    assert features.grad.dtype == masks.grad.dtype == dtype


def test_layer_of_equal_weights_is_a_mean_over_the_window():
    """A layer whose encoder says nothing weighs all 25 pixels of a window alike, zeros outside included."""
    layer = CARAFEPack(channels=4, scale_factor=2)
    torch.nn.init.zeros_(layer.content_encoder.weight)
    torch.nn.init.zeros_(layer.content_encoder.bias)
    features = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    mean = torch.nn.functional.avg_pool2d(features, 5, stride=1, padding=2)
    expected = mean.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(features), expected)
    assert mmcv.ops.CARAFEPack is CARAFEPack
