"""``roi_align_forward`` and ``roi_align_backward`` of ``mmcv._ext``, on any device.

Source: https://arxiv.org/abs/1703.06870 and mmcv/ops/csrc/pytorch/cpu/roi_align.cpp.
"""

import torch
import torch.nn.functional as F
import torchvision

from sosr_det.compat.precision import working_dtype

POOL_MAX, POOL_AVERAGE = 0, 1
NO_SAMPLE = -1.0


def roi_align_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool bilinear samples of each region into a grid of bins.

    Args:
        input: [N, C, H, W] feature map.
        rois: [K, 5] (index into N, x1, y1, x2, y2) in pixels of the image, K = 0 allowed.
        output: Output, [K, C, aligned_height, aligned_width]. A bin without samples (a region without height or
            width, when ``aligned`` and ``sampling_ratio`` 0) is 0; the compiled op's maximum is -10000 there.
        argmax_y: Output of ``max`` pooling, like ``output``: vertical position of the largest sample in feature-map
            pixels, -1 for none. Not touched for ``avg``.
        argmax_x: The same, horizontal.
        aligned_height: Bins per region, vertical.
        aligned_width: Bins per region, horizontal.
        spatial_scale: Feature-map pixels per image pixel (1 / stride).
        sampling_ratio: Samples per bin and axis; 0 takes about one per feature-map pixel.
        pool_mode: 0 max, 1 avg.
        aligned: True shifts regions by half a pixel, so that samples lie at pixel centres; False is the legacy
            behaviour, which also makes each region at least one pixel large.

    Raises:
        ValueError: A region ends before it starts, with ``aligned`` (checked on the CPU only, as in mmcv).
    """
    # On an accelerator the check would make the host wait for the device at every call.
    if aligned and rois.device.type == "cpu" and bool((rois[:, 3:] < rois[:, 1:3]).any()):
        raise ValueError("roi_align: a region has x2 < x1 or y2 < y1")
    features = input.to(working_dtype(input))
    rois = rois.to(features.dtype)
    if pool_mode == POOL_AVERAGE:
        size = (aligned_height, aligned_width)
        output.copy_(torchvision.ops.roi_align(features, rois, size, spatial_scale, sampling_ratio, aligned))
        return

    # torchvision has no maximum. But a grid with one sample per bin and as many bins as there are samples holds
    # exactly the samples; their maxima are a max pooling. Regions with equally many samples go together.
    counts = samples_per_bin(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    for rows, columns in counts.unique(dim=0).tolist():
        chosen = (counts == counts.new_tensor([rows, columns])).all(dim=1)
        if rows == 0 or columns == 0:
            output[chosen] = 0
            argmax_y[chosen] = argmax_x[chosen] = NO_SAMPLE
            continue
        size = (aligned_height * rows, aligned_width * columns)
        samples = torchvision.ops.roi_align(features, rois[chosen], size, spatial_scale, 1, aligned)
        maxima, position = F.max_pool2d(samples, (rows, columns), return_indices=True)
        start, extent = region(rois[chosen], spatial_scale, aligned)
        row, column = position.div(size[1], rounding_mode="floor"), position % size[1]
        y = start[:, 1, None, None, None] + (row + 0.5) * (extent[:, 1, None, None, None] / size[0])
        x = start[:, 0, None, None, None] + (column + 0.5) * (extent[:, 0, None, None, None] / size[1])
        output[chosen] = maxima.to(output.dtype)
        argmax_y[chosen] = y.to(argmax_y.dtype)
        argmax_x[chosen] = x.to(argmax_x.dtype)


def roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` by the feature map into ``grad_input`` [N, C, H, W]."""
    dtype = working_dtype(grad_input)
    gradient = grad_output.to(dtype)
    if pool_mode == POOL_MAX:
        grad_input.copy_(
            _scatter_to_neighbours(gradient, rois[:, 0].long(), argmax_y, argmax_x, grad_input.shape)
        )
        return
    # Average pooling is linear: its gradient does not depend on the feature map, which mmcv does not hand over.
    features = torch.zeros(grad_input.shape, dtype=dtype, device=grad_input.device, requires_grad=True)
    with torch.enable_grad():
        size = (aligned_height, aligned_width)
        pooled = torchvision.ops.roi_align(
            features, rois.to(dtype), size, spatial_scale, sampling_ratio, aligned
        )
        grad_input.copy_(torch.autograd.grad(pooled, features, gradient)[0])


def region(rois: torch.Tensor, spatial_scale: float, aligned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and extent of each region, both [K, 2] as (x, y) in feature-map pixels."""
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return start, extent if aligned else extent.clamp(min=1)


def samples_per_bin(
    rois: torch.Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> torch.Tensor:
    """[K, 2] int64: samples per bin of each region, (vertical, horizontal)."""
    if sampling_ratio > 0:
        return torch.full((len(rois), 2), sampling_ratio, device=rois.device)
    _, extent = region(rois, spatial_scale, aligned)
    return (extent.flip(1) / extent.new_tensor([height, width])).ceil().long()


def _scatter_to_neighbours(
    gradient: torch.Tensor, image: torch.Tensor, y: torch.Tensor, x: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """Add each sample's gradient to the four pixels that it was interpolated from.

    Args:
        gradient: [K, C, h, w], one value per sample.
        image: [K] int64 index of each region's feature map.
        y: Like ``gradient``: positions in feature-map pixels; samples more than a pixel outside have no gradient.
        x: The same, horizontal.
        shape: (N, C, H, W) of the feature map and of the result.
    """
    _, channels, height, width = shape
    y, x = y.to(gradient.dtype), x.to(gradient.dtype)
    inside = (y > -1) & (y <= height) & (x > -1) & (x <= width)
    gradient = torch.where(inside, gradient, 0)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    plane = image[:, None] * channels + torch.arange(channels, device=image.device)
    result = gradient.new_zeros(shape)
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            # A neighbour past the last row or column has weight 0.
            pixel = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
            index = plane[:, :, None, None] * (height * width) + pixel.long()
            result.view(-1).index_add_(0, index.flatten(), (gradient * row_weight * column_weight).flatten())
    return result
