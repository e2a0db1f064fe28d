"""``deform_roi_pool_forward`` and ``deform_roi_pool_backward`` of ``mmcv._ext``, on any device.

RoIAlign with regions' bins that may move. The gradient by the offsets is that of the bilinear interpolation
everywhere; within a pixel of the map's border, where sampling points are moved inside, the compiled op extrapolates.

Source: https://arxiv.org/abs/1703.06211, https://arxiv.org/abs/1811.11168 and
mmcv/ops/csrc/common/cuda/deform_roi_pool_cuda_kernel.cuh
"""

import torch

from sosr_det.compat.precision import working_dtype
from sosr_det.compat.roi_align import region, samples_per_bin


def deform_roi_pool_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    offset: torch.Tensor,
    output: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Average bilinear samples of each bin of each region.

    Args:
        input: [N, C, H, W] feature map.
        rois: [K, 5] (index into N, x1, y1, x2, y2) in pixels of the image; pixel centres lie at halves.
        offset: [K, 2, pooled_height, pooled_width]: how far each bin moves, (x, y) in units of ``gamma`` times the
            region's width and height. Without any number: no bin moves.
        output: Output, [K, C, pooled_height, pooled_width]; a bin without samples is 0.
        pooled_height: Bins per region, vertical.
        pooled_width: Bins per region, horizontal.
        spatial_scale: Feature-map pixels per image pixel (1 / stride).
        sampling_ratio: Samples per bin and axis; 0 takes about one per feature-map pixel.
        gamma: See ``offset``; 0 stops all movement.
    """
    geometry = (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma
    output.copy_(_pool(input, rois, offset, *geometry))


def deform_roi_pool_backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    rois: torch.Tensor,
    offset: torch.Tensor,
    grad_input: torch.Tensor,
    grad_offset: torch.Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients of :func:`deform_roi_pool_forward` by the feature map and, where there is one, the offset.

    Both outputs come filled with zeros, and stay so where nothing was sampled.
    """
    geometry = (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma
    input, offset = input.detach().requires_grad_(), offset.detach().requires_grad_()
    with torch.enable_grad():
        output = _pool(input, rois, offset, *geometry)
        if not output.requires_grad:  # no region, or none with a sample
            return
        gradients = torch.autograd.grad(
            output, (input, offset), grad_output.to(output.dtype), allow_unused=True, materialize_grads=True
        )
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[1])


def _pool(
    input: torch.Tensor,
    rois: torch.Tensor,
    offset: torch.Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> torch.Tensor:
    def ticks(count: int) -> torch.Tensor:
        return torch.arange(count, dtype=dtype, device=input.device)

    def middles(count: int) -> torch.Tensor:
        return (ticks(count) + 0.5) / count

    dtype = working_dtype(input)
    _, channels, height, width = input.shape
    pixels = input.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    rois, offset = rois.to(dtype), offset.to(dtype)
    start, extent = region(rois, spatial_scale, aligned=True)
    counts = samples_per_bin(rois, *bins, spatial_scale, sampling_ratio, aligned=True).clamp(min=0)
    output = pixels.new_zeros(len(rois), *bins, channels)
    for rows, columns in counts.unique(dim=0).tolist():
        if rows == 0 or columns == 0:
            continue
        chosen = (counts == counts.new_tensor([rows, columns])).all(dim=1).nonzero()[:, 0]
        # Everything below is [k, bins vertical, bins horizontal, …]; points are (x, y) in feature-map pixels.
        origin, size = start[chosen, None, None], extent[chosen, None, None]
        if offset.numel():
            origin = origin + gamma * size * offset[chosen].permute(0, 2, 3, 1)
        y = origin[..., 1:] + (ticks(bins[0])[:, None, None] + middles(rows)) * (size[..., 1:] / bins[0])
        x = origin[..., :1] + (ticks(bins[1])[:, None] + middles(columns)) * (size[..., :1] / bins[1])
        image = rois[chosen, 0].long()[:, None, None, None, None] * (height * width)
        samples = _interpolate(pixels, image, y[..., :, None], x[..., None, :], height, width)
        output = output.index_put((chosen,), samples.mean(dim=(3, 4)))
    return output.permute(0, 3, 1, 2)


def _interpolate(
    pixels: torch.Tensor, image: torch.Tensor, y: torch.Tensor, x: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Bilinear samples [..., C] of the maps that start at row ``image`` of ``pixels`` [N * H * W, C].

    A point up to a pixel outside is moved to the border, one farther out is 0.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    total = 0
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            # A neighbour past the last row or column has weight 0.
            index = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
            total = total + pixels[image + index.long()] * (row_weight * column_weight * inside)[..., None]
    return total
