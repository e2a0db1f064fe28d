# Faster R-CNN R50-FPN on VOC07+12 by MMDetection's 1x schedule: a second detector for the same backbones. Twins
#   …-{tv,ce,sosr}-pre_…: torchvision's ImageNet weights, ours by cross-entropy, ours by SOSR. They differ in the last
#   line.
# Paper: none has this experiment; Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383) trains
#   RetinaNet only (Table 8).
# Command: tools/train_det.sh detection/faster-rcnn_r50-tv-pre_fpn_1x_voc0712 8
# Then: tools/test_det.sh detection/faster-rcnn_r50-tv-pre_fpn_1x_voc0712
#   work_dirs/faster-rcnn_r50-tv-pre_fpn_1x_voc0712
# Expected: with torchvision's weights MMDetection publishes 79.5 mAP (11-point), training on all of trainval and
#   validating on test: --select-on test. Time: not measured.
# Not run on this project's machines.
# On fewer GPUs the learning rate follows (a line says so). Needs VOC under data/VOCdevkit (or --data-root, $SOSR_DATA).
_base_ = [
    "../_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/datasets/voc0712.py",
    "../_base_/schedules/voc0712_1x.py",
    "../_base_/runtime/detection.py",
]
model = dict(backbone=dict(init_cfg=dict(checkpoint="torchvision://resnet50")))
