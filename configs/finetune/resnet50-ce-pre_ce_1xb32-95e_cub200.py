# Paper: Table 4, backbone ResNet-50, Baseline: 85.37±0.03 % top-1, mean of 4 runs, best epoch.
# Command: tools/finetune.sh finetune/resnet50-ce-pre_ce_1xb32-95e_cub200
# Needs CUB-200-2011 under data/CUB_200_2011 (or $SOSR_DATA). Not run on this project's machines.
# 22-23 of CUB's test images are also in ImageNet. Not in the paper, chosen here: 448 px input, batch size, optimizer.
_base_ = [
    "../_base_/models/resnet50_classifier.py",
    "../_base_/datasets/cub200_448.py",
    "../_base_/schedules/cub200_95e.py",
    "../_base_/runtime/classification.py",
]
stage = "finetune"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="sosr://resnet50-in1k-ce")),
    num_classes=200,
)
publish = dict(name="resnet50-cub200-ce-pre-ce")
