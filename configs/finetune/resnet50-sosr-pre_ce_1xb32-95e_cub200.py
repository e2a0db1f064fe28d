# Paper: Table 4, backbone ResNet-50(SOSR), Baseline: 85.92±0.05 % top-1, mean of 4 runs, best epoch.
# Command: tools/finetune.sh finetune/resnet50-sosr-pre_ce_1xb32-95e_cub200
# Needs CUB-200-2011 under data/CUB_200_2011 (or $SOSR_DATA). Not run on this project's machines.
# 22-23 of CUB's test images are also in ImageNet. Not in the paper, chosen here: 448 px input, batch size, optimizer.
_base_ = "resnet50-ce-pre_ce_1xb32-95e_cub200.py"
model = dict(backbone=dict(init_cfg=dict(checkpoint="sosr://resnet50-in1k-sosr")))
publish = dict(name="resnet50-cub200-sosr-pre-ce")
