# MMDetection's Faster R-CNN R50-FPN (https://arxiv.org/abs/1506.01497, https://arxiv.org/abs/1612.03144) for VOC.
_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"
model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
