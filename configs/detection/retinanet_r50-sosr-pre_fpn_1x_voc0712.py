# RetinaNet-R50-FPN on VOC07+12 by MMDetection's 1x schedule. Twins …-{tv,ce,sosr}-pre_…: torchvision's ImageNet
#   weights, ours by cross-entropy, ours by SOSR. They differ in the last line alone.
# Paper: Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383). Its Table 8 (70.17±0.02 /
#   71.14±0.06 mAP) is by another schedule: see detection/retinanet_r50-sosr-pre_fpn_paper30e_voc0712.
# Command: tools/train_det.sh detection/retinanet_r50-sosr-pre_fpn_1x_voc0712 8
# Then: tools/test_det.sh detection/retinanet_r50-sosr-pre_fpn_1x_voc0712
#   work_dirs/retinanet_r50-sosr-pre_fpn_1x_voc0712
# Expected: with torchvision's weights MMDetection publishes 77.3 mAP (11-point; checkpoint of 2020; 79.2 for its
#   checkpoint of 2022), training on all of trainval and validating on test: --select-on test. Time: not measured.
# Not run on this project's machines.
# On fewer GPUs the learning rate follows (a line says so). Needs VOC under data/VOCdevkit (or --data-root, $SOSR_DATA).
_base_ = [
    "../_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/voc0712.py",
    "../_base_/schedules/voc0712_1x.py",
    "../_base_/runtime/detection.py",
]
model = dict(backbone=dict(init_cfg=dict(checkpoint="sosr://resnet50-in1k-sosr")))
