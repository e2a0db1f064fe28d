"""``carafe_*`` and ``carafe_naive_*`` of ``mmcv._ext``, on any device (the compiled ops exist for CUDA only).

Each pixel of the upsampled map is a sum over a window of the small map, weighted by a kernel of its own.

Source: https://arxiv.org/abs/1905.02188 and mmcv/ops/csrc/common/cuda/carafe_naive_cuda_kernel.cuh
"""

import torch
import torch.nn.functional as F

from sosr_det.compat.precision import working_dtype


def carafe_forward(
    features: torch.Tensor,
    masks: torch.Tensor,
    rfeatures: torch.Tensor,
    routput: torch.Tensor,
    rmasks: torch.Tensor,
    output: torch.Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features into ``output``.

    Args:
        features: [N, C, H, W].
        masks: [N, group_size * kernel_size^2, scale_factor * H, scale_factor * W]: weights of every output pixel, the
            window's rows one after the other.
        rfeatures: Output, like ``features``: what :func:`carafe_backward` is given instead of them, here a copy (the
            compiled op keeps them channels last).
        routput: Not used.
        rmasks: Not used.
        output: Output, [N, C, scale_factor * H, scale_factor * W].
        kernel_size: Side of the window, odd; it is centred on the small map's pixel, zeros lie outside.
        group_size: Blocks of channels with weights of their own.
        scale_factor: Whole factor of upsampling, 1 or more.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: torch.Tensor,
    rfeatures: torch.Tensor,
    masks: torch.Tensor,
    rtop_grad: torch.Tensor,
    rbottom_grad_hs: torch.Tensor,
    rbottom_grad: torch.Tensor,
    rmask_grad: torch.Tensor,
    bottom_grad: torch.Tensor,
    mask_grad: torch.Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of :func:`carafe_forward` by features and masks; the other buffers are not used."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


def carafe_naive_forward(
    features: torch.Tensor,
    masks: torch.Tensor,
    output: torch.Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the same as :func:`carafe_forward` into ``output``."""
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: torch.Tensor,
    features: torch.Tensor,
    masks: torch.Tensor,
    bottom_grad: torch.Tensor,
    mask_grad: torch.Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of :func:`carafe_naive_forward` by features and masks."""
    inputs = [tensor.detach().requires_grad_() for tensor in (features, masks)]
    with torch.enable_grad():
        output = _reassemble(*inputs, kernel_size, group_size, scale_factor)
        gradients = torch.autograd.grad(output, inputs, top_grad.to(output.dtype))
    for destination, gradient in zip((bottom_grad, mask_grad), gradients, strict=True):
        destination.copy_(gradient)


def _reassemble(
    features: torch.Tensor, masks: torch.Tensor, kernel_size: int, groups: int, scale: int
) -> torch.Tensor:
    batch, channels, height, width = features.shape
    features, masks = features.to(working_dtype(features)), masks.to(working_dtype(masks))
    windows = F.unfold(features, kernel_size, padding=(kernel_size - 1) // 2)
    windows = windows.view(batch, groups, channels // groups, kernel_size**2, height, width)
    weights = masks.view(batch, groups, kernel_size**2, height, scale, width, scale)
    # Output pixel (h * scale + a, w * scale + b) belongs to the window of pixel (h, w).
    output = torch.einsum("ngckhw,ngkhawb->ngchawb", windows, weights)
    return output.reshape(batch, channels, height * scale, width * scale)
