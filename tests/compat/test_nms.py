"""nms, soft_nms, nms_match and batched_nms against loops over boxes and against the compiled ops' outputs."""

import math

import mmcv.ops
import pytest
import torch
from mmcv import _ext

TINY = 1e-9


def iou(first: list[float], second: list[float], offset: int) -> float:
    def side(low: float, high: float) -> float:
        return max(0.0, high - low + offset)

    intersection = side(max(first[0], second[0]), min(first[2], second[2])) * side(
        max(first[1], second[1]), min(first[3], second[3])
    )
    areas = [side(box[0], box[2]) * side(box[1], box[3]) for box in (first, second)]
    return intersection / max(sum(areas) - intersection, TINY)


def slow_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    boxes, scores = boxes.tolist(), scores.tolist()
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[index], boxes[other], offset) <= threshold for other in kept):
            kept.append(index)
    return kept


def slow_soft_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    threshold: float,
    sigma: float,
    floor: float,
    method: str,
    offset: int,
) -> list[tuple[int, float]]:
    boxes = boxes.tolist()
    waiting = dict(enumerate(scores.tolist()))
    picked = []
    while waiting:
        best = max(waiting, key=waiting.get)
        picked.append((best, waiting.pop(best)))
        for index in list(waiting):
            overlap = iou(boxes[best], boxes[index], offset)
            if method == "gaussian":
                waiting[index] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                waiting[index] *= 1 - overlap if method == "linear" else 0
            if waiting[index] < floor:
                del waiting[index]
    return picked


def random_boxes(count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator, dtype=dtype) * 40
    return torch.cat(
        [corners, corners + torch.rand(count, 2, generator=generator, dtype=dtype) * 30 + 1], dim=1
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_equals_the_loop(generator, dtype, offset, threshold):
    boxes = random_boxes(60, generator, dtype)
    scores = torch.rand(60, generator=generator, dtype=dtype)
    dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == slow_nms(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_takes_reduced_precision(generator, dtype):
    boxes = random_boxes(40, generator).round().to(dtype)
    scores = torch.rand(40, generator=generator)
    _, kept = mmcv.ops.nms(boxes, scores, 0.5)
    assert kept.tolist() == slow_nms(boxes, scores, 0.5, offset=0)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_equal_scores_in_index_order(generator, offset):
    boxes = random_boxes(50, generator)
    scores = torch.randint(0, 3, (50,), generator=generator) / 4
    _, kept = mmcv.ops.nms(boxes, scores, 0.4, offset=offset)
    assert kept.tolist() == slow_nms(boxes, scores, 0.4, offset)
    _, kept = mmcv.ops.nms(boxes[:1].repeat(4, 1), torch.full((4,), 0.5), 0.4, offset=offset)
    assert kept.tolist() == [0]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_nms_keeps_a_box_exactly_at_the_threshold(offset, tenths):
    # float32(tenths / 10) is above tenths / 10 for some and below it for others.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, tenths, 1]]) - torch.tensor([0.0, 0, offset, offset])
    _, kept = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), tenths / 10, offset=offset)
    assert kept.tolist() == [0, 1]


def test_nms_offset_matters():
    boxes = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2]])
    scores = torch.tensor([0.9, 0.8])
    assert mmcv.ops.nms(boxes, scores, 0.1, offset=0)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, 0.1, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_of_none_and_one(offset):
    dets, kept = mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=offset)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64
    assert mmcv.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.1]), 0.5, offset=offset)[
        1
    ].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_the_loop(generator, method, offset, dtype):
    boxes = random_boxes(60, generator, dtype)
    scores = torch.rand(60, generator=generator, dtype=dtype)
    settings = {"iou_threshold": 0.3, "sigma": 0.4, "min_score": 0.1, "method": method, "offset": offset}
    dets, kept = mmcv.ops.soft_nms(boxes, scores, **settings)
    expected = slow_soft_nms(boxes, scores, 0.3, 0.4, 0.1, method, offset)
    assert len(expected) < 60
    assert kept.tolist() == [index for index, _ in expected]
    assert torch.equal(dets[:, :4], boxes[kept])
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected], dtype=dtype))


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_of_none_one_and_equal_boxes(method):
    dets, kept = mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), method=method)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    # The best box stays even below min_score, as in the compiled op.
    box = torch.tensor([[0.0, 0, 1, 1]])
    assert mmcv.ops.soft_nms(box, torch.tensor([0.1]), min_score=0.5, method=method)[1].tolist() == [0]
    _, kept = mmcv.ops.soft_nms(box.repeat(3, 1), torch.full((3,), 0.5), min_score=0.4, method=method)
    assert kept.tolist() == [0]


def test_soft_nms_of_boxes_without_area_gives_no_nan():
    boxes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1]])
    dets, kept = mmcv.ops.soft_nms(boxes, torch.tensor([0.6, 0.5]), method="gaussian")
    assert kept.tolist() == [0, 1]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.6, 0.5]))


def test_soft_nms_fills_the_buffer_and_leaves_its_input(generator):
    boxes, scores = random_boxes(20, generator), torch.rand(20, generator=generator)
    boxes_before, scores_before = boxes.clone(), scores.clone()
    buffer = torch.full((20, 5), -7.0)
    kept = _ext.softnms(
        boxes, scores, buffer, iou_threshold=0.1, sigma=0.5, min_score=0.3, method=0, offset=0
    )
    assert 0 < len(kept) < 20
    assert torch.equal(buffer[: len(kept), :4], boxes[kept])
    assert bool((buffer[len(kept) :] == -7).all())
    assert torch.equal(boxes, boxes_before)
    assert torch.equal(scores, scores_before)


def test_nms_match_equals_the_loop(generator):
    boxes, scores = random_boxes(40, generator), torch.rand(40, generator=generator)
    groups = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.3)
    expected, waiting = [], sorted(range(40), key=lambda i: -scores[i])
    while waiting:
        kept = waiting[0]
        group = [i for i in waiting if i == kept or iou(boxes[kept].tolist(), boxes[i].tolist(), 0) >= 0.3]
        expected.append(group)
        waiting = [i for i in waiting if i not in group]
    assert [group.tolist() for group in groups] == expected
    assert mmcv.ops.nms_match(torch.zeros(0, 5), 0.3) == []


@pytest.mark.parametrize("split_thr", [10, 10000])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_batched_nms_equals_the_loop_per_class(generator, split_thr, class_agnostic):
    boxes, scores = random_boxes(60, generator), torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    if class_agnostic:
        labels = torch.zeros_like(labels)
    config = {"type": "nms", "iou_threshold": 0.4, "split_thr": split_thr, "class_agnostic": class_agnostic}
    dets, kept = mmcv.ops.batched_nms(boxes, scores, labels, config)
    expected = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        expected += [int(members[i]) for i in slow_nms(boxes[members], scores[members], 0.4, offset=0)]
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("iou0.3", {"iou_threshold": 0.3}),
        ("iou0.5", {"iou_threshold": 0.5}),
        ("iou0.7", {"iou_threshold": 0.7}),
        ("score.4_max20", {"iou_threshold": 0.5, "score_threshold": 0.4, "max_num": 20}),
    ],
)
def test_nms_equals_the_compiled_op(golden, offset, case, settings):
    dets, kept = mmcv.ops.nms(golden("boxes/boxes"), golden("boxes/scores"), offset=offset, **settings)
    assert torch.equal(kept, golden(f"nms/offset{offset}_{case}/keep"))
    assert torch.equal(dets, golden(f"nms/offset{offset}_{case}/dets"))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_the_compiled_op(golden, method, offset):
    dets, kept = mmcv.ops.soft_nms(
        golden("boxes/boxes"), golden("boxes/scores"), iou_threshold=0.3, method=method, offset=offset
    )
    assert torch.equal(kept, golden(f"soft_nms/{method}_offset{offset}/keep"))
    # Nothing to choose in the arithmetic but the last bits of exp.
    tolerance = 1e-6 if method == "gaussian" else 0
    torch.testing.assert_close(dets, golden(f"soft_nms/{method}_offset{offset}/dets"), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("case", "config"),
    [("iou.5", {"type": "nms", "iou_threshold": 0.5}), ("soft", {"type": "soft_nms", "iou_threshold": 0.3})],
)
def test_batched_nms_equals_the_compiled_op(golden, case, config):
    dets, kept = mmcv.ops.batched_nms(
        golden("boxes/boxes"), golden("boxes/scores"), golden("boxes/labels"), config
    )
    assert torch.equal(kept, golden(f"batched_nms/{case}/keep"))
    assert torch.equal(dets, golden(f"batched_nms/{case}/dets"))
