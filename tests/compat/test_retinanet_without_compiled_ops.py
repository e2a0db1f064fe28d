"""MMDetection itself on the stand-in: one RetinaNet-R18 learns, predicts, and crops masks on a tiny image."""

import mmdet.models  # registers what the config names
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import BitmapMasks
from mmengine.hub import get_config
from mmengine.structures import InstanceData


@pytest.fixture(scope="module")
def retinanet() -> torch.nn.Module:
    torch.manual_seed(0)
    config = get_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py").model
    config.backbone.init_cfg = None
    config.bbox_head.num_classes = 3
    config.test_cfg.score_thr = 0.0  # an untrained head is below the usual threshold everywhere
    model = MODELS.build({**config, "_scope_": "mmdet"})
    assert isinstance(model, mmdet.models.RetinaNet)
    model.init_weights()
    return model


@pytest.fixture
def sample() -> DetDataSample:
    sample = DetDataSample(
        metainfo={
            "img_shape": (64, 96),
            "ori_shape": (64, 96),
            "batch_input_shape": (64, 96),
            "pad_shape": (64, 96),
            "scale_factor": (1.0, 1.0),
        }
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 12, 40, 50], [50, 8, 90, 40]]), labels=torch.tensor([0, 2])
    )
    return sample


def test_loss_and_backward(retinanet, sample):
    retinanet.train()
    losses = retinanet.loss(torch.randn(1, 3, 64, 96), [sample])
    total = sum(value for values in losses.values() for value in values)
    assert total.isfinite()
    total.backward()
    gradients = [p.grad for p in retinanet.parameters() if p.requires_grad]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


@torch.no_grad()
def test_predict_suppresses_overlaps(retinanet, sample):
    retinanet.eval()
    (result,) = retinanet.predict(torch.randn(1, 3, 64, 96), [sample])
    found = result.pred_instances
    assert 0 < len(found) <= 100
    for label in found.labels.unique():
        boxes = found.bboxes[found.labels == label]
        overlaps = bbox_overlaps(boxes, boxes).fill_diagonal_(0)
        assert bool((overlaps <= 0.5 + 1e-6).all())


def test_crop_of_masks():
    """mmdet crops instance masks with roi_align, in the data-loading workers."""
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 2:6, 2:6] = 1
    boxes = torch.tensor([[2.0, 2, 6, 6]]).numpy()
    crop = BitmapMasks(mask.numpy(), 8, 8).crop_and_resize(
        boxes, (4, 4), inds=torch.tensor([0]).numpy(), device="cpu"
    )
    assert crop.masks.sum() == 16
