# Paper: Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383), Table 3 (ResNet-18+SOSR: 71.58 top-1, 90.33 top-5, mean of 2 runs, best epoch).
# Command: tools/pretrain.sh pretrain/resnet18_sosr_8xb32-300e_in1k 8
# Needs ImageNet-1k as class folders under data/imagenet (or $SOSR_DATA). Not run on this project's machines.
# The paper states neither its ImageNet schedule nor P and beta there. These are the authors' later script's: 300 epochs,
# P = 0.99, beta = 0.5; the twin with the customary 90 epochs is pretrain/resnet18_sosr_8xb32-90e_in1k.
_base_ = [
    "../_base_/models/resnet50_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
model = dict(
    backbone=dict(arch="resnet18"), loss=dict(_delete_=True, type="SOSRLoss", threshold=0.99, weight=0.5)
)
publish = dict(name="resnet18-in1k-sosr-300e")
