# Part of tools/demo.sh: proves that the pipeline works, says nothing about the method.
# Command: tools/pretrain.sh demo/resnet18_ce_1xb32-6e_demo-imagenet
_base_ = [
    "../_base_/models/resnet18_demo.py",
    "../_base_/datasets/demo_imagenet_64.py",
    "../_base_/schedules/demo_6e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
publish = dict(name="resnet18-demo-ce")
