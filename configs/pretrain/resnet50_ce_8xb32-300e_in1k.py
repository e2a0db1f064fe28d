# Paper: Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383), Table 3 (ResNet-50: 76.20 top-1, 92.97 top-5, mean of 2 runs, best epoch).
# Command: tools/pretrain.sh pretrain/resnet50_ce_8xb32-300e_in1k 8
# Needs ImageNet-1k as class folders under data/imagenet (or $SOSR_DATA). Not run on this project's machines.
# The paper does not state its ImageNet schedule. This is the one of the authors' later script: 300 epochs; the twin with
# the customary 90 epochs is pretrain/resnet50_ce_8xb32-90e_in1k.
_base_ = [
    "../_base_/models/resnet50_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
publish = dict(name="resnet50-in1k-ce-300e")
