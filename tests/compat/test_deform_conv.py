"""Deformable convolutions against a loop over single samples, gradcheck, and the compiled ops' results."""

import math

import mmcv.ops
import pytest
import torch

# stride, padding, dilation, groups, deform_groups
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (0, 1), (1, 2), 1, 2),
    ((1, 2), (2, 1), (2, 1), 2, 1),
    ((1, 1), (1, 0), (1, 1), 2, 2),
]


def sample(plane: torch.Tensor, y: float, x: float) -> float:
    """One bilinear sample, zero outside."""
    height, width = plane.shape
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total += float(plane[row, column]) * row_weight * column_weight
    return total


def slow_deform_conv(input, offset, weight, mask, bias, stride, padding, dilation, groups, deform_groups):
    batch, channels, _, _ = input.shape
    channels_out, channels_per_group, kernel_h, kernel_w = weight.shape
    _, _, height, width = offset.shape
    offset = offset.view(batch, deform_groups, kernel_h, kernel_w, 2, height, width)
    output = torch.zeros(batch, channels_out, height, width, dtype=input.dtype)
    for n, out_channel, y, x in torch.cartesian_prod(*(torch.arange(size) for size in output.shape)).tolist():
        first = (out_channel // (channels_out // groups)) * channels_per_group
        value = 0.0 if bias is None else float(bias[out_channel])
        for channel in range(first, first + channels_per_group):
            block = channel // (channels // deform_groups)
            for i in range(kernel_h):
                for j in range(kernel_w):
                    shift_y, shift_x = offset[n, block, i, j, :, y, x].tolist()
                    position = (
                        y * stride[0] - padding[0] + i * dilation[0] + shift_y,
                        x * stride[1] - padding[1] + j * dilation[1] + shift_x,
                    )
                    factor = (
                        1.0 if mask is None else float(mask[n, (block * kernel_h + i) * kernel_w + j, y, x])
                    )
                    product = sample(input[n, channel], *position) * factor
                    value += product * float(weight[out_channel, channel - first, i, j])
        output[n, out_channel, y, x] = value
    return output


def tensors(generator, stride, padding, dilation, groups, deform_groups, size=(5, 4)):
    """Return input, offset, weight, mask and bias of a 4 -> 2 channel convolution with a 3 x 2 kernel."""
    kernel = (3, 2)
    height, width = (
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    samples = deform_groups * kernel[0] * kernel[1]
    shapes = {
        "input": (2, 4, *size),
        "offset": (2, 2 * samples, height, width),
        "weight": (2, 4 // groups, *kernel),
        "mask": (2, samples, height, width),
        "bias": (2,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv_values_and_gradient(generator, geometry):
    leaves = tensors(generator, *geometry)
    inputs = leaves["input"], leaves["offset"], leaves["weight"]
    expected = slow_deform_conv(*(leaf.detach() for leaf in inputs), None, None, *geometry)
    torch.testing.assert_close(mmcv.ops.deform_conv2d(*inputs, *geometry), expected)
    small = tensors(generator, *geometry, size=(3, 3))
    assert torch.autograd.gradcheck(
        lambda *leaves: mmcv.ops.deform_conv2d(*leaves, *geometry),
        (small["input"], small["offset"], small["weight"]),
        fast_mode=True,
    )


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deform_conv_values_and_gradient(generator, geometry, with_bias):
    def convolve(input, offset, mask, weight, bias=None):
        return mmcv.ops.modulated_deform_conv2d(input, offset, mask, weight, bias, *geometry)

    names = ["input", "offset", "mask", "weight"] + (["bias"] if with_bias else [])
    leaves = tensors(generator, *geometry)
    fixed = {name: leaves[name].detach() if name in names else None for name in leaves}
    expected = slow_deform_conv(
        fixed["input"], fixed["offset"], fixed["weight"], fixed["mask"], fixed["bias"], *geometry
    )
    torch.testing.assert_close(convolve(*(leaves[name] for name in names)), expected)
    small = tensors(generator, *geometry, size=(3, 3))
    assert torch.autograd.gradcheck(convolve, tuple(small[name] for name in names), fast_mode=True)


@pytest.mark.parametrize("needed", ["input", "offset", "weight"])
def test_deform_conv_with_one_gradient_wanted(generator, needed):
    """A frozen weight or a fixed offset leaves one of the two backward ops uncalled."""
    leaves = tensors(generator, *GEOMETRIES[0])
    inputs = [leaves[name].detach().requires_grad_(name == needed) for name in ("input", "offset", "weight")]
    mmcv.ops.deform_conv2d(*inputs, *GEOMETRIES[0]).sum().backward()
    mmcv.ops.deform_conv2d(
        *(leaves[name] for name in ("input", "offset", "weight")), *GEOMETRIES[0]
    ).sum().backward()
    grad = next(leaf.grad for leaf in inputs if leaf.requires_grad)
    torch.testing.assert_close(grad, leaves[needed].grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_offsets_as_under_amp(generator, dtype):
    """Under autocast the offsets come in half precision; mmcv casts the rest to match."""
    layer = mmcv.ops.ModulatedDeformConv2dPack(4, 2, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1, generator=generator)
    features = torch.randn(1, 4, 6, 6, generator=generator)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(features)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), layer(features), atol=0.05, rtol=0.05)
    output.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_modules_with_channels_last_and_small_input(generator):
    layer = mmcv.ops.DeformConv2dPack(4, 2, 3, padding=1)
    features = torch.randn(2, 4, 6, 6, generator=generator)
    expected = torch.nn.functional.conv2d(features, layer.weight, padding=1)  # offsets start at 0
    torch.testing.assert_close(layer(features.to(memory_format=torch.channels_last)), expected)
    small = mmcv.ops.DeformConv2d(4, 2, 3, padding=1)
    assert small(torch.randn(1, 4, 2, 2), torch.zeros(1, 18, 2, 2)).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("deform_groups", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_equals_the_compiled_op(golden, golden_gradient, modulated, deform_groups):
    case = f"{'modulated_' if modulated else ''}deform_conv2d/deform_groups{deform_groups}"
    leaves = {
        "input": golden("feat/feat"),
        "offset": golden(f"{case}/offset"),
        **({"mask": golden(f"{case}/mask")} if modulated else {}),
        "weight": golden("weight/weight"),
        **({"bias": golden(f"{case}/bias")} if modulated else {}),
    }
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    convolve = mmcv.ops.modulated_deform_conv2d if modulated else mmcv.ops.deform_conv2d
    output = convolve(*leaves.values(), 1, 1, 1, 1, deform_groups)
    output.backward(golden_gradient(output))
    torch.testing.assert_close(output.detach(), golden(f"{case}/output"), rtol=0, atol=2e-6)
    for name, leaf in leaves.items():
        # Sums of thousands of terms, added in another order: relative to the largest entry.
        expected = golden(f"{case}/grad_{name}")
        tolerance = 2e-6 * float(expected.abs().max())
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=tolerance)


def test_larger_offset_maps_are_read_as_the_compiled_op_reads_them(generator):
    """mmcv's kernels walk over offset and mask with the output's strides, whatever size they have."""
    geometry = ((1, 1), (1, 1), (1, 1), 1, 1)
    input = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    offset = torch.randn(2, 18, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 9, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    output = mmcv.ops.modulated_deform_conv2d(input, offset, mask, weight, None, *geometry)
    assert output.shape == (2, 2, 3, 4)

    # What number (n, c, y, x) of an output-sized map would be, counted from the start of sample n.
    read = [torch.empty(2, channels, 3, 4, dtype=torch.float64) for channels in (18, 9)]
    for source, target in zip((offset, mask), read, strict=True):
        for n, c, y, x in torch.cartesian_prod(*(torch.arange(size) for size in target.shape)).tolist():
            target[n, c, y, x] = source[n].detach().flatten()[(c * 3 + y) * 4 + x]
    expected = slow_deform_conv(input.detach(), read[0], weight, read[1], None, *geometry)
    torch.testing.assert_close(output, expected)

    gradients = torch.autograd.grad(output.sum(), (offset, mask))
    assert [gradient.shape for gradient in gradients] == [offset.shape, mask.shape]
    used = [channels * 3 * 4 for channels in (18, 9)]
    for gradient, count in zip(gradients, used, strict=True):
        assert gradient.flatten(1)[:, :count].any()
        assert not gradient.flatten(1)[:, count:].any()


def test_smaller_offset_maps_are_refused(generator):
    input = torch.randn(1, 3, 6, 6, generator=generator)
    weight = torch.randn(2, 3, 3, 3, generator=generator)
    with pytest.raises(ValueError, match=r"\[3, 3\] pixels, the output \[6, 6\]"):
        mmcv.ops.modulated_deform_conv2d(
            input, torch.zeros(1, 18, 3, 3), torch.zeros(1, 9, 3, 3), weight, None, 1, 1
        )
