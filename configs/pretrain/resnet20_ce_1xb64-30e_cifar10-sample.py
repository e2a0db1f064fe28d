# ResNet-20 with plain cross-entropy
# on CIFAR-10 or on a class-folder sample of it: minutes on a CPU, and a small experiment, not a row of the paper.
# Command: tools/pretrain.sh pretrain/resnet20_ce_1xb64-30e_cifar10-sample 1 --data-root DIR --seed 0
# Needs DIR/{train,test}/<class>/*.jpg or torchvision's CIFAR-10 files under DIR. Writes dynamics.json (Figs. 1 and 2) too.
_base_ = [
    "../_base_/models/small_cifar10.py",
    "../_base_/datasets/cifar10_32.py",
    "../_base_/schedules/small_30e.py",
    "../_base_/runtime/classification.py",
]
stage = "pretrain"
model = dict(backbone=dict(arch="resnet20"))
train_dataloader = dict(batch_size=64, num_workers=0, persistent_workers=False)
auto_scale_lr = dict(base_batch_size=64)  # lr 0.05 for batch 64
custom_hooks = [dict(type="TrainingDynamicsHook")]
