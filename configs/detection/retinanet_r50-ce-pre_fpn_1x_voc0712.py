# RetinaNet-R50-FPN on VOC07+12 from our cross-entropy ImageNet backbone.
# Command: tools/train_det.sh detection/retinanet_r50-ce-pre_fpn_1x_voc0712 8
# The paper's Table 8 (70.17 / 71.14 mAP) uses another schedule. Not run on this project's machines.
_base_ = "../_base_/models/retinanet_r50_fpn_voc0712.py"
model = dict(backbone=dict(init_cfg=dict(checkpoint="sosr://resnet50-in1k-ce")))
