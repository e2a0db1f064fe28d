"""A detector's losses in each layout and precision, on a batch with boxes."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import sosr_det.register  # noqa: F401
from sosr_det.engine.acceleration.layout import is_channels_last, to_channels_last
from sosr_det.engine.configs import load_config


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small work, and other tests run beside it: threads that wait for each other would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def detector():
    """Faster R-CNN: the neck's maps go through RoIAlign, which reads memory as it lies."""
    import mmdet.models  # noqa: F401

    cfg = load_config("detection/faster-rcnn_r50-tv-pre_fpn_1x_voc0712")
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.depth = 18
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg.model)


def losses(model, *, channels_last, precision):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    own = copy.deepcopy(model).train()
    if channels_last:
        to_channels_last(own)
    shape = (96, 96)
    sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1, 1)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 50, 60], [30, 20, 90, 88]]), labels=torch.tensor([1, 3])
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)
    )
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
    torch.manual_seed(1)  # samples of proposals are drawn
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        batch = {"inputs": [image, image.flip(2)], "data_samples": [sample, copy.deepcopy(sample)]}
        total, _ = own.parse_losses(own(**own.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    gradients = [p.grad for p in own.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert is_channels_last(own) == channels_last
    return total.item()


def test_a_detector_computes_the_same_in_channels_last_and_nearly_so_in_bf16(detector):
    plain = losses(detector, channels_last=False, precision="fp32")
    assert losses(detector, channels_last=True, precision="fp32") == pytest.approx(plain, rel=1e-5)
    assert losses(detector, channels_last=True, precision="bf16") == pytest.approx(plain, rel=0.02)
