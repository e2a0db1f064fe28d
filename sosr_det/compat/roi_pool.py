"""``roi_pool_forward`` and ``roi_pool_backward`` of ``mmcv._ext``, on any device.

Not ``torchvision.ops.roi_pool``: that one rounds the corners of a region first, mmcv's does not, and the results
differ. mmcv's compiled op exists for CUDA only.
Source: https://arxiv.org/abs/1504.08083 and mmcv/ops/csrc/common/cuda/roi_pool_cuda_kernel.cuh.
"""

import torch

from sosr_det.compat.precision import working_dtype

NOTHING_POOLED = -1


def roi_pool_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the largest pixel of each bin of each region.

    Bins cover whole pixels and may overlap. A bin outside the feature map, or of a region without extent, is 0 and
    has no gradient (the compiled op sends the gradient of a region without extent to pixel 0).

    Args:
        input: [N, C, H, W] feature map.
        rois: [K, 5] (index into N, x1, y1, x2, y2) in pixels of the image, x2 and y2 inclusive; K = 0 allowed.
        output: Output, [K, C, pooled_height, pooled_width].
        argmax: Output, like ``output``, int32: index of the pixel in its H x W plane, -1 for none.
        pooled_height: Bins per region, vertical.
        pooled_width: Bins per region, horizontal.
        spatial_scale: Feature-map pixels per image pixel (1 / stride).
    """
    output.zero_()
    argmax.fill_(NOTHING_POOLED)
    width = input.shape[3]
    tops, bottoms = _bin_edges(rois[:, 2], rois[:, 4], pooled_height, spatial_scale, input.shape[2])
    lefts, rights = _bin_edges(rois[:, 1], rois[:, 3], pooled_width, spatial_scale, width)
    for region, image in enumerate(rois[:, 0].long().tolist()):
        rows = [bin for bin in range(pooled_height) if tops[region][bin] < bottoms[region][bin]]
        columns = [bin for bin in range(pooled_width) if lefts[region][bin] < rights[region][bin]]
        if not rows or not columns:
            continue
        # First within each row of pixels, then over the rows: ties go to the first pixel in reading order.
        by_column = [
            input[image, :, :, lefts[region][bin] : rights[region][bin]].max(dim=2) for bin in columns
        ]
        values = torch.stack([maximum.values for maximum in by_column], dim=2)
        x = torch.stack(
            [maximum.indices + lefts[region][bin] for bin, maximum in zip(columns, by_column, strict=True)],
            dim=2,
        )
        for row in rows:
            top, bottom = tops[region][row], bottoms[region][row]
            maximum = values[:, top:bottom].max(dim=1)
            y = maximum.indices + top
            output[region, :, row, columns] = maximum.values
            argmax[region, :, row, columns] = (y * width + x.gather(1, y[:, None])[:, 0]).to(argmax.dtype)


def roi_pool_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax: torch.Tensor,
    grad_input: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add each bin's gradient to the pixel that it took: writes ``grad_input`` [N, C, H, W]."""
    _, channels, height, width = grad_input.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    index = plane[:, :, None, None] * (height * width) + argmax.long().clamp(min=0)
    gradient = torch.where(argmax == NOTHING_POOLED, 0, grad_output).to(working_dtype(grad_input))
    # Summed in the working precision: many regions may share a pixel.
    total = gradient.new_zeros(grad_input.numel()).index_add_(0, index.flatten(), gradient.flatten())
    grad_input.copy_(total.view_as(grad_input))


def _bin_edges(
    first: torch.Tensor, last: torch.Tensor, bins: int, spatial_scale: float, size: int
) -> tuple[list[list[int]], list[list[int]]]:
    """First pixel and pixel past the end of each bin along one axis, [K][bins] each, clipped to 0..size.

    All bins of a region without extent are empty.
    """
    dtype = working_dtype(first)
    start, end = first.to(dtype) * spatial_scale, (last.to(dtype) + 1) * spatial_scale
    bin_size = ((end - start) / bins)[:, None]
    position = torch.arange(bins, dtype=dtype, device=first.device)
    begins = (position * bin_size + start[:, None]).floor()
    ends = ((position + 1) * bin_size + start[:, None]).ceil()
    ends = torch.where(bin_size > 0, ends, begins)
    return begins.clamp(0, size).long().tolist(), ends.clamp(0, size).long().tolist()
