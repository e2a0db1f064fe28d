# Part of tools/demo.sh: proves that the pipeline works, says nothing about the method.
# Command: tools/finetune.sh demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub
_base_ = [
    "../_base_/models/resnet18_demo.py",
    "../_base_/datasets/demo_cub_64.py",
    "../_base_/schedules/demo_6e.py",
    "../_base_/runtime/classification.py",
]
stage = "finetune"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="sosr://resnet18-demo-sosr")),
    num_classes=16,
    loss=dict(_delete_=True, type="SOSRLoss", threshold=0.99, weight=1.0),
)
publish = dict(name="resnet18-demo-cub-sosr")
