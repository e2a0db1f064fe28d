"""No fallback op mixes devices: shapes on the meta device everywhere, values on CUDA where there is a GPU."""

from collections.abc import Callable

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

ROIS = torch.tensor([[0.0, 1.3, 2.1, 6.7, 5.9], [1, -1.2, 0.4, 3.3, 7.2]])
BOXES = torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6], [9, 9, 12, 12], [0, 0, 5, 4]])
SCORES = torch.tensor([0.6, 0.9, 0.9, 0.3])
SHAPES = torch.tensor([[4, 4], [2, 2]])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attend(value, locations, weights):
    shapes, starts = SHAPES.to(value.device), torch.tensor([0, 16], device=value.device)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


# name: op on the leaves (which get gradients), the leaves, whether it reads values back to the host
DIFFERENTIABLE: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...], bool]] = {
    "roi_align avg": (
        lambda x: mmcv.ops.roi_align(x, ROIS.to(x.device), (2, 3), 0.8, 0, "avg", True),
        (random(2, 3, 8, 8),),
        False,
    ),
    "roi_align max": (
        lambda x: mmcv.ops.roi_align(x, ROIS.to(x.device), (2, 3), 0.8, 0, "max", True),
        (random(2, 3, 8, 8),),
        True,
    ),
    "roi_pool": (
        lambda x: mmcv.ops.roi_pool(x, ROIS.to(x.device), (2, 3), 0.8),
        (random(2, 3, 8, 8),),
        True,
    ),
    "sigmoid_focal_loss": (
        lambda x: mmcv.ops.sigmoid_focal_loss(x, torch.arange(5, device=x.device), 2.0, 0.25, None, "none"),
        (random(5, 4),),
        False,
    ),
    "softmax_focal_loss": (
        lambda x: mmcv.ops.softmax_focal_loss(x, torch.arange(4, device=x.device), 2.0, 0.25, None, "mean"),
        (random(4, 4),),
        False,
    ),
    "deform_conv2d": (
        lambda *leaves: mmcv.ops.deform_conv2d(*leaves, 1, 1),
        (random(2, 3, 5, 5), random(2, 18, 5, 5, seed=1), random(4, 3, 3, 3, seed=2)),
        False,
    ),
    "modulated_deform_conv2d": (
        lambda *leaves: mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1),
        (
            random(2, 3, 5, 5),
            random(2, 18, 5, 5, seed=1),
            random(2, 9, 5, 5, seed=2),
            random(4, 3, 3, 3, seed=3),
            random(4, seed=4),
        ),
        False,
    ),
    "carafe": (
        lambda features, masks: mmcv.ops.carafe(features, masks, 3, 2, 2),
        (random(2, 4, 3, 5), random(2, 18, 6, 10, seed=1)),
        False,
    ),
    "deform_roi_pool": (
        lambda x, offset: mmcv.ops.deform_roi_pool(x, ROIS.to(x.device), offset, (2, 3), 0.8, 2, 0.2),
        (random(2, 3, 8, 8), random(2, 2, 2, 3, seed=1)),
        True,
    ),
    "ms_deform_attn": (
        attend,
        (random(1, 20, 2, 3), random(1, 3, 2, 2, 2, 2, seed=1).sigmoid(), random(1, 3, 2, 2, 2, seed=2)),
        True,
    ),
}


def run(name: str, device: str) -> list[torch.Tensor]:
    """Return output and gradients of one op on ``device``."""
    op, leaves, _ = DIFFERENTIABLE[name]
    leaves = [leaf.to(device).requires_grad_() for leaf in leaves]
    output = op(*leaves)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output).to(device)
    return [output.detach(), *torch.autograd.grad(output, leaves, weights)]


@pytest.mark.parametrize(
    "name", [name for name, (_, _, reads_back) in DIFFERENTIABLE.items() if not reads_back]
)
def test_shapes_on_the_meta_device(name):
    """A tensor made on the wrong device inside an op would not combine with meta tensors."""
    results = run(name, "meta")
    assert {result.device.type for result in results} == {"meta"}
    assert [result.shape for result in results] == [result.shape for result in run(name, "cpu")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_cuda_equals_cpu(name):
    results = run(name, "cuda")
    assert {result.device.type for result in results} == {"cuda"}
    for found, expected in zip(results, run(name, "cpu"), strict=True):
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("offset", [0, 1])
def test_cuda_boxes_equal_cpu(offset):
    boxes, scores = BOXES.cuda(), SCORES.cuda()
    for op in (mmcv.ops.nms, mmcv.ops.soft_nms):
        dets, kept = op(boxes, scores, 0.3, offset=offset)
        expected_dets, expected_kept = op(BOXES, SCORES, 0.3, offset=offset)
        assert kept.tolist() == expected_kept.tolist()
        torch.testing.assert_close(dets.cpu(), expected_dets)
    overlaps = mmcv.ops.bbox_overlaps(boxes, boxes, offset=offset)
    torch.testing.assert_close(overlaps.cpu(), mmcv.ops.bbox_overlaps(BOXES, BOXES, offset=offset))
