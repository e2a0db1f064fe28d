"""``masked_im2col_forward`` and ``masked_col2im_forward`` of ``mmcv._ext``, on any device.

Together with the matrix product in ``mmcv.ops.masked_conv2d`` they are a convolution at chosen pixels. There is no
backward pass in mmcv either: the op serves inference.

Source: https://arxiv.org/abs/1901.03278 and mmcv/ops/csrc/common/cuda/masked_conv2d_cuda_kernel.cuh
"""

import torch
import torch.nn.functional as F


def masked_im2col_forward(
    im: torch.Tensor,
    mask_h_idx: torch.Tensor,
    mask_w_idx: torch.Tensor,
    col: torch.Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the windows around the chosen output pixels into ``col``.

    Args:
        im: [1, C, H, W].
        mask_h_idx: [M] int64: row of each chosen pixel of the convolution's output (stride 1).
        mask_w_idx: [M]: its column.
        col: Output, [C * kernel_h * kernel_w, M]; zeros outside the image.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        pad_h: Zero padding above and below, pixels.
        pad_w: Zero padding left and right, pixels.
    """
    # A pixel of the mask may lie past the last output pixel, where the padding is less than half the kernel.
    padded = F.pad(im[0], (pad_w, pad_w + kernel_w, pad_h, pad_h + kernel_h))
    rows = mask_h_idx[:, None] + torch.arange(kernel_h, device=im.device)
    columns = mask_w_idx[:, None] + torch.arange(kernel_w, device=im.device)
    windows = padded[:, rows[:, :, None], columns[:, None, :]]  # [C, M, kernel_h, kernel_w]
    col.copy_(windows.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: torch.Tensor,
    mask_h_idx: torch.Tensor,
    mask_w_idx: torch.Tensor,
    im: torch.Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write column m of ``col`` [channels, M] to pixel m of ``im`` [1, channels, height, width]; others stay."""
    im[0, :, mask_h_idx, mask_w_idx] = col
