# MMDetection's RetinaNet-R50-FPN, anchors as in https://arxiv.org/abs/1708.02002, for the 20 classes of VOC.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"
model = dict(bbox_head=dict(num_classes=20))
