# Paper: Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383), Table 3 (ResNet-18+SOSR: 71.58 top-1, 90.33 top-5, mean of 2 runs, best epoch).
# Command: tools/pretrain.sh pretrain/resnet18_sosr_8xb32-90e_in1k 8
# Needs ImageNet-1k as class folders under data/imagenet (or $SOSR_DATA). Not run on this project's machines.
# Not in the paper: the schedule (chosen here; the authors' later script has 300 epochs: see the 300e twin), and P = 0.99 and
# beta = 0.5 on ImageNet (from that script's README, https://github.com/cs-xuancheng/SelectiveOutputSmoothing).
_base_ = [
    "../_base_/models/resnet50_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_90e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
model = dict(
    backbone=dict(arch="resnet18"), loss=dict(_delete_=True, type="SOSRLoss", threshold=0.99, weight=0.5)
)
publish = dict(name="resnet18-in1k-sosr")
