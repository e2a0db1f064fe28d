"""bbox_overlaps against a loop over pairs of boxes."""

import mmcv.ops
import pytest
import torch


def slow_overlap(first: list[float], second: list[float], mode: str, offset: int) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]) + offset)
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (first, second)]
    return width * height / (sum(areas) - width * height if mode == "iou" else areas[0])


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 20 + 1], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("aligned", [False, True])
def test_overlaps_equal_the_loop(generator, aligned, mode, offset, dtype):
    first = random_boxes(6, generator).to(dtype)
    second = random_boxes(6 if aligned else 4, generator).to(dtype)
    found = mmcv.ops.bbox_overlaps(first, second, mode, aligned, offset)
    table = torch.tensor(
        [[slow_overlap(a, b, mode, offset) for b in second.tolist()] for a in first.tolist()], dtype=dtype
    )
    torch.testing.assert_close(found, table.diagonal() if aligned else table)


def test_overlaps_of_no_boxes():
    assert mmcv.ops.bbox_overlaps(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert mmcv.ops.bbox_overlaps(torch.zeros(0, 4), torch.zeros(0, 4), aligned=True).shape == (0,)
