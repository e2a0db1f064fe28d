# ResNet-18 with its ImageNet stem on 64 px images: a backbone for small experiments, not a row of the paper
# (Table 2 uses CIFAR-style ResNets).
# Command: tools/pretrain.sh pretrain/resnet18_ce_1xb128-30e_tiny-imagenet 1 --data-root DIR
# A subset of the classes works too: add --cfg-options model.num_classes=N.
_base_ = [
    "../_base_/models/resnet50_classifier.py",
    "../_base_/datasets/tiny_imagenet_64.py",
    "../_base_/schedules/small_30e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
model = dict(
    backbone=dict(arch="resnet18"),
    num_classes=200,
)
publish = dict(name="resnet18-tin200-ce")
