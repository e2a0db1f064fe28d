"""``deform_conv_*`` and ``modulated_deform_conv_*`` of ``mmcv._ext``, on any device.

``torchvision.ops.deform_conv2d`` is the same operation with the same order of offsets (y, x). mmcv's buffers
(``columns``, ``ones``) and its batching hint (``im2col_step``) have no counterpart there and are not used. Groups and
deformable groups follow from the shapes. Gradients come from repeating the forward pass under autograd: mmcv's
autograd function calls forward and backward separately and can't hand torchvision's graph over.

Source: https://arxiv.org/abs/1703.06211, https://arxiv.org/abs/1811.11168 and
mmcv/ops/csrc/pytorch/{deform_conv,modulated_deform_conv}.cpp
"""

import torch
import torchvision

from sosr_det.compat.precision import working_dtype


def deform_conv_forward(
    input: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    output: torch.Tensor,
    columns: torch.Tensor,
    ones: torch.Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the deformable convolution (v1, no mask, no bias) into ``output``.

    Args:
        input: [N, C, H, W].
        weight: [C_out, C / group, kH, kW].
        offset: [N, deformable_group * kH * kW * 2, H_out, W_out]: (y, x) shift of every sample, in pixels.
        output: Output, [N, C_out, H_out, W_out].
        columns: Not used.
        ones: Not used.
        kW: Kernel width; like ``kH``, ``group`` and ``deformable_group``, already given by the shapes.
        kH: Kernel height.
        dW: Horizontal stride, pixels.
        dH: Vertical stride, pixels.
        padW: Zero padding left and right, pixels.
        padH: Zero padding above and below, pixels.
        dilationW: Horizontal distance of kernel elements, pixels; 1 is a dense kernel.
        dilationH: The same, vertical.
        group: Blocks of channels that are convolved apart.
        deformable_group: Blocks of channels with offsets of their own.
        im2col_step: Not used.
    """
    output.copy_(_convolve([input, offset, weight], (dH, dW), (padH, padW), (dilationH, dilationW)))


def deform_conv_backward_input(
    input: torch.Tensor,
    offset: torch.Tensor,
    gradOutput: torch.Tensor,
    gradInput: torch.Tensor,
    gradOffset: torch.Tensor,
    weight: torch.Tensor,
    columns: torch.Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of :func:`deform_conv_forward` by input and offset."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW)
    _write_gradients([input, offset, weight], [gradInput, gradOffset, None], gradOutput, *geometry)


def deform_conv_backward_parameters(
    input: torch.Tensor,
    offset: torch.Tensor,
    gradOutput: torch.Tensor,
    gradWeight: torch.Tensor,
    columns: torch.Tensor,
    ones: torch.Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Write ``scale`` times the gradient of :func:`deform_conv_forward` by the weight."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW)
    # The convolution is linear in the weight: its gradient does not depend on the weight, which mmcv does not pass.
    any_weight = torch.zeros_like(gradWeight)
    _write_gradients([input, offset, any_weight], [None, None, gradWeight], gradOutput, *geometry)
    gradWeight.mul_(scale)


def modulated_deform_conv_forward(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    ones: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    output: torch.Tensor,
    columns: torch.Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated deformable convolution (v2) into ``output``.

    Args:
        input: [N, C, H, W].
        weight: [C_out, C / group, kernel_h, kernel_w].
        bias: [C_out], read only if ``with_bias``.
        ones: Not used.
        offset: [N, deformable_group * kernel_h * kernel_w * 2, H_out, W_out]: (y, x) shifts in pixels. Larger maps are
            taken as the compiled op takes them: see :func:`_as_read`.
        mask: [N, deformable_group * kernel_h * kernel_w, H_out, W_out]: factor of every sample.
        output: Output, [N, C_out, H_out, W_out].
        columns: Not used.
        kernel_h: Kernel height; like the width and both group counts, already given by the shapes.
        kernel_w: Kernel width.
        stride_h: Vertical stride, pixels.
        stride_w: Horizontal stride, pixels.
        pad_h: Zero padding above and below, pixels.
        pad_w: Zero padding left and right, pixels.
        dilation_h: Vertical distance of kernel elements, pixels.
        dilation_w: The same, horizontal.
        group: Blocks of channels that are convolved apart.
        deformable_group: Blocks of channels with offsets and masks of their own.
        with_bias: Whether to add ``bias``.
    """
    tensors = [input, offset, weight, mask] + ([bias] if with_bias else [])
    output.copy_(_convolve(tensors, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)))


def modulated_deform_conv_backward(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    ones: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    columns: torch.Tensor,
    grad_input: torch.Tensor,
    grad_weight: torch.Tensor,
    grad_bias: torch.Tensor,
    grad_offset: torch.Tensor,
    grad_mask: torch.Tensor,
    grad_output: torch.Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the gradients of :func:`modulated_deform_conv_forward` by all its tensors (bias if ``with_bias``)."""
    tensors = [input, offset, weight, mask] + ([bias] if with_bias else [])
    gradients = [grad_input, grad_offset, grad_weight, grad_mask] + ([grad_bias] if with_bias else [])
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    _write_gradients(tensors, gradients, grad_output, *geometry)


def _convolve(
    tensors: list[torch.Tensor], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> torch.Tensor:
    """Convolve ``tensors`` = input, offset, weight and, for v2, mask and bias. Pairs are (vertical, horizontal)."""
    input, offset, weight, mask, bias = (
        tensor.to(working_dtype(tensor)) if tensor is not None else None
        for tensor in [*tensors, None, None][:5]
    )
    if mask is not None:
        size = [
            (side + 2 * pad - (dilate * (kernel - 1) + 1)) // step + 1
            for side, pad, dilate, kernel, step in zip(
                input.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
            )
        ]
        offset, mask = _as_read(offset, size), _as_read(mask, size)
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def _as_read(maps: torch.Tensor, size: list[int]) -> torch.Tensor:
    """[N, C, height, width] of maps that may be larger, as the compiled modulated op reads them.

    It never compares their size with the output's, but takes each sample's first C * height * width numbers as they lie
    in memory. MMDetection's DyHead depends on it: it moves a small map by offsets of the next larger one.

    Raises:
        ValueError: there are fewer numbers than that (the compiled op reads past the end).
    """
    if list(maps.shape[2:]) == size:
        return maps
    count = maps.shape[1] * size[0] * size[1]
    if maps[0].numel() < count:
        raise ValueError(
            f"modulated deformable convolution: offset or mask is {list(maps.shape[2:])} pixels, the output {size}"
        )
    return maps.flatten(1)[:, :count].reshape(*maps.shape[:2], *size)


def _write_gradients(
    tensors: list[torch.Tensor],
    gradients: list[torch.Tensor | None],
    grad_output: torch.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """Repeat the forward pass under autograd and fill the ``gradients`` that are not None, in order of ``tensors``."""
    tensors = [
        tensor.detach().requires_grad_(gradient is not None)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    with torch.enable_grad():
        output = _convolve(tensors, stride, padding, dilation)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = torch.autograd.grad(output, wanted, grad_output.to(output.dtype))
    for destination, gradient in zip((g for g in gradients if g is not None), found, strict=True):
        destination.copy_(gradient)
