"""Multi-scale deformable attention against a loop over single samples, and gradcheck."""

import math

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

SHAPES = [(4, 5), (2, 3)]
KEYS = sum(height * width for height, width in SHAPES)


def sample(plane: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """One bilinear sample of [H, W, C], zero outside."""
    height, width, channels = plane.shape
    top, left = math.floor(y), math.floor(x)
    total = torch.zeros(channels, dtype=plane.dtype)
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total += plane[row, column] * row_weight * column_weight
    return total


def slow_attention(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    output = torch.zeros(batch, queries, heads, channels, dtype=value.dtype)
    for n, query, head in torch.cartesian_prod(
        torch.arange(batch), torch.arange(queries), torch.arange(heads)
    ).tolist():
        start = 0
        for level, (height, width) in enumerate(SHAPES):
            plane = value[n, start : start + height * width, head].view(height, width, channels)
            start += height * width
            for point, (x, y) in enumerate(locations[n, query, head, level].tolist()):
                found = sample(plane, y * height - 0.5, x * width - 0.5)
                output[n, query, head] += weights[n, query, head, level, point] * found
    return output.flatten(2)


@pytest.fixture
def inputs(generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return value, sampling locations (some outside) and attention weights."""
    value = torch.randn(2, KEYS, 2, 3, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 3, 2, len(SHAPES), 2, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 3, 2, len(SHAPES), 2, generator=generator, dtype=torch.float64)
    return value, locations, weights


def attend_with_op(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Go the way that mmcv's layer takes on CUDA."""
    shapes = torch.tensor(SHAPES)
    starts = torch.tensor([0, SHAPES[0][0] * SHAPES[0][1]])
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def test_op_values_and_gradient(inputs):
    torch.testing.assert_close(attend_with_op(*inputs), slow_attention(*inputs))
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(attend_with_op, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_op_keeps_reduced_precision(inputs, dtype):
    value, locations, weights = (tensor.to(dtype) for tensor in inputs)
    output = attend_with_op(value.requires_grad_(), locations, weights)
    assert output.dtype == dtype
    expected = slow_attention(value.detach().double(), locations.double(), weights.double())
    torch.testing.assert_close(output.double(), expected, atol=0.02, rtol=0.02)
    output.sum().backward()
    assert value.grad.dtype == dtype


def test_layer_runs_and_equals_the_op(generator, monkeypatch):
    """The layer on a CPU uses mmcv's PyTorch version; with it replaced by the op, nothing changes."""
    torch.manual_seed(0)
    layer = mmcv.ops.MultiScaleDeformableAttention(
        embed_dims=8, num_heads=2, num_levels=2, num_points=2, dropout=0.0, batch_first=True
    ).double()
    query = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    value = torch.randn(2, KEYS, 8, generator=generator, dtype=torch.float64)
    arguments = {
        "value": value,
        "reference_points": torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64),
        "spatial_shapes": torch.tensor(SHAPES),
        "level_start_index": torch.tensor([0, 20]),
    }
    plain = layer(query, **arguments)
    calls = []

    def attend(value, shapes, locations, weights):
        if isinstance(shapes, list):  # called from the op itself
            return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
        calls.append(shapes)
        return attend_with_op(value, locations, weights)

    monkeypatch.setattr("mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch", attend)
    torch.testing.assert_close(layer(query, **arguments), plain)
    assert calls
    layer(query, **arguments).sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in layer.parameters())
