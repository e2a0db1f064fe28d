"""``bbox_overlaps`` of ``mmcv._ext``."""

import torch


def bbox_overlaps(
    bboxes1: torch.Tensor, bboxes2: torch.Tensor, ious: torch.Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlap of boxes into ``ious``, as mmcv's compiled op on the CPU does.

    Args:
        bboxes1: [M, 4] corners (x1, y1, x2, y2) in pixels.
        bboxes2: [N, 4]; N = M when ``aligned``.
        ious: Output, [M, N], or [M] when ``aligned``. Two boxes without any area give NaN.
        mode: 0 divides the intersection by the union, 1 by the area of the first box.
        aligned: True compares row with row, False every box with every box.
        offset: 0 measures a side as x2 - x1; 1 as x2 - x1 + 1 (PASCAL VOC devkit).

    Source: mmcv/ops/csrc/pytorch/cpu/bbox_overlaps_cpu.cpp
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    sides = torch.minimum(first[..., 2:], bboxes2[..., 2:]) - torch.maximum(first[..., :2], bboxes2[..., :2])
    intersection = (sides + offset).clamp(min=0).prod(dim=-1)
    denominator = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        denominator = denominator + (bboxes2[..., 2:] - bboxes2[..., :2] + offset).prod(dim=-1) - intersection
    ious.copy_(intersection / denominator)
