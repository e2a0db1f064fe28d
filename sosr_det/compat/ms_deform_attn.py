"""``ms_deform_attn_forward`` and ``ms_deform_attn_backward`` of ``mmcv._ext``.

mmcv's ``MultiScaleDeformableAttention`` calls its own PyTorch version on a CPU and these two on CUDA. Here they lead
back to that PyTorch version, so that both devices run the same code.

Source: https://arxiv.org/abs/2010.04159 and mmcv/ops/multi_scale_deform_attn.py
"""

import torch

from sosr_det.compat.precision import working_dtype


def ms_deform_attn_forward(
    value: torch.Tensor,
    value_spatial_shapes: torch.Tensor,
    value_level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
    im2col_step: int,
) -> torch.Tensor:
    """Sum bilinear samples of multi-scale features, weighted by attention.

    Args:
        value: [N, keys, heads, channels], the levels one after the other.
        value_spatial_shapes: [levels, 2] int64 (height, width) of each level.
        value_level_start_index: [levels]; not used, it follows from the shapes.
        sampling_locations: [N, queries, heads, levels, points, 2], (x, y) in 0..1 from border to border of a level;
            samples outside are 0.
        attention_weights: [N, queries, heads, levels, points].
        im2col_step: Batching hint of the compiled op; not used.

    Returns:
        [N, queries, heads * channels].
    """
    attended = _attend(value, value_spatial_shapes, sampling_locations, attention_weights)
    return attended.to(value.dtype)


def ms_deform_attn_backward(
    value: torch.Tensor,
    value_spatial_shapes: torch.Tensor,
    value_level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
    grad_output: torch.Tensor,
    grad_value: torch.Tensor,
    grad_sampling_loc: torch.Tensor,
    grad_attn_weight: torch.Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of :func:`ms_deform_attn_forward` by value, locations and weights."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        attended = _attend(inputs[0], value_spatial_shapes, *inputs[1:])
        gradients = torch.autograd.grad(attended, inputs, grad_output.to(attended.dtype))
    for destination, gradient in zip(
        (grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True
    ):
        destination.copy_(gradient)


def _attend(
    value: torch.Tensor, spatial_shapes: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    # Imported late: that module imports mmcv._ext, which imports this one.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value, locations, weights = (tensor.to(working_dtype(tensor)) for tensor in (value, locations, weights))
    # As a list: the host reads the shapes from the device once instead of at every use.
    return multi_scale_deformable_attn_pytorch(value, spatial_shapes.tolist(), locations, weights)
