# Part of tools/demo.sh: proves that the pipeline works, says nothing about the method.
# Command: tools/train_det.sh demo/retinanet_r18-ce-pre_fpn_3e_demo-voc
_base_ = "../_base_/models/retinanet_r18_fpn_demo_voc.py"
model = dict(backbone=dict(init_cfg=dict(checkpoint="sosr://resnet18-demo-ce")))
