"""``nms``, ``softnms`` and ``nms_match`` of ``mmcv._ext``.

Equal scores are taken in the order of their index, lowest first; the compiled ops leave that order undefined.
"""

import numpy as np
import torch
import torchvision

from sosr_det.compat.precision import working_dtype

SOFT_NMS_NAIVE, SOFT_NMS_LINEAR, SOFT_NMS_GAUSSIAN = 0, 1, 2


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Return the indices of the boxes that greedy non-maximum suppression keeps, highest score first.

    Args:
        boxes: [N, 4] corners (x1, y1, x2, y2) in pixels, N = 0 allowed, on any device.
        scores: [N].
        iou_threshold: A box goes when its IoU with a kept one is above this: 0 removes every box that touches a
            kept one, 1 removes none.
        offset: 0 measures a side as x2 - x1; 1 as x2 - x1 + 1.

    Returns:
        [kept] int64 indices into ``boxes``.

    Source: mmcv/ops/csrc/pytorch/cpu/nms.cpp
    """
    boxes = boxes.to(working_dtype(boxes))
    if offset:
        # A side of x2 - x1 + 1 is a side of (x2 + 1) - x1. In float64, where adding 1 to a float32 is exact.
        boxes = boxes.double() + boxes.new_tensor([0, 0, offset, offset])
    elif boxes.dtype == torch.float32:
        # The compiled op compares with a float32 threshold, torchvision with a float64 one. float32(0.3) is above
        # 0.3, so an IoU of exactly 3/10 would be kept by the one and removed by the other.
        iou_threshold = float(np.float32(iou_threshold))
    # Ranks instead of the scores: stable for equal scores, and the scores may have any dtype.
    order = scores.argsort(descending=True, stable=True)
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    return order[torchvision.ops.nms(boxes[order], ranks, iou_threshold)]


def softnms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    dets: torch.Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> torch.Tensor:
    """Lower the scores of boxes that overlap a better one (Soft-NMS), on the CPU.

    Args:
        boxes: [N, 4] corners (x1, y1, x2, y2) in pixels, N = 0 allowed.
        scores: [N].
        dets: Output, [N, 5]: the kept boxes with their new scores in the order in which they were picked. Rows past
            the kept ones are left as they are.
        iou_threshold: Overlap from which ``naive`` sets a score to 0 and ``linear`` multiplies it by 1 - IoU.
        sigma: Width of the ``gaussian`` decay exp(-IoU^2 / sigma); above 0.
        min_score: A box goes once its lowered score is below this. The best box always stays.
        method: 0 naive, 1 linear, 2 gaussian.
        offset: 0 measures a side as x2 - x1; 1 as x2 - x1 + 1.

    Returns:
        [kept] int64 indices into ``boxes``.

    Source: https://arxiv.org/abs/1704.04503 and mmcv/ops/csrc/pytorch/cpu/nms.cpp
    """
    dtype = working_dtype(boxes)
    corners = boxes.detach().to(dtype).numpy()
    rows = np.column_stack([corners, scores.detach().to(dtype).numpy()])
    indices = np.arange(len(rows))
    # The float types of the compiled op: a Python float would do, but a float64 threshold decides ties differently.
    iou_threshold, sigma, min_score = (rows.dtype.type(value) for value in (iou_threshold, sigma, min_score))

    picked = 0
    while picked < len(rows):
        best = picked + int(rows[picked:, 4].argmax())
        rows[[picked, best]] = rows[[best, picked]]
        indices[[picked, best]] = indices[[best, picked]]

        overlap = _iou_with_many(rows[picked], rows[picked + 1 :], offset)
        if method == SOFT_NMS_GAUSSIAN:
            decay = np.exp(-(overlap * overlap) / sigma)
        else:
            lowered = 1 - overlap if method == SOFT_NMS_LINEAR else np.zeros_like(overlap)
            decay = np.where(overlap >= iou_threshold, lowered, np.ones_like(overlap))
        rows[picked + 1 :, 4] *= decay

        picked += 1
        order = _order_after_removal(rows[picked:, 4] < min_score)
        rows = np.concatenate([rows[:picked], rows[picked:][order]])
        indices = np.concatenate([indices[:picked], indices[picked:][order]])

    dets[: len(rows)].copy_(torch.from_numpy(rows))
    return torch.from_numpy(indices)


def nms_match(dets: torch.Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept box that suppresses them, on the CPU.

    Args:
        dets: [N, 5] corners in pixels and score.
        iou_threshold: A box joins the group when its IoU with the kept one is at least this (``nms``: above it).

    Returns:
        One list per kept box, highest score first: its index, then those of the boxes it suppresses, by score.

    Source: mmcv/ops/csrc/pytorch/cpu/nms.cpp
    """
    corners = dets[:, :4].detach().to(working_dtype(dets)).numpy()
    threshold = corners.dtype.type(iou_threshold)
    waiting = dets[:, 4].argsort(descending=True, stable=True).numpy()
    groups = []
    while len(waiting):
        kept, others = waiting[0], waiting[1:]
        suppressed = _iou_with_many(corners[kept], corners[others], offset=0) >= threshold
        groups.append([int(kept), *others[suppressed].tolist()])
        waiting = others[~suppressed]
    return groups


def _iou_with_many(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """IoU of one box [>= 4] with many [N, >= 4]. Boxes without any area overlap nothing (0, not NaN)."""
    sides = np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2]) + offset
    intersection = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:4] - others[:, :2] + offset).prod(axis=1)
    union = (box[2:4] - box[:2] + offset).prod() + areas - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union != 0)


def _order_after_removal(removed: np.ndarray) -> np.ndarray:
    """Positions that remain, ordered as the compiled op leaves them: each gap is filled from the end.

    The order matters later: among equal scores, the first in this order is picked.
    """
    order = np.arange(len(removed) - np.count_nonzero(removed))
    survivors_behind = len(order) + np.flatnonzero(~removed[len(order) :])
    order[removed[: len(order)]] = survivors_behind[::-1]
    return order
