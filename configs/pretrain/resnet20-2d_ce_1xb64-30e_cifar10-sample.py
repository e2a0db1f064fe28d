# ResNet-20 whose features are cut to 2 before the head (as the ResNet-110 of the paper's Fig. 3), with plain cross-entropy
# on CIFAR-10 or on a class-folder sample of it: minutes on a CPU, and a small experiment, not a row of the paper.
# Command: tools/pretrain.sh pretrain/resnet20-2d_ce_1xb64-30e_cifar10-sample 1 --data-root DIR --seed 0
# Needs DIR/{train,test}/<class>/*.jpg or torchvision's CIFAR-10 files under DIR. Writes dynamics.json (Figs. 1 and 2) too.
_base_ = "resnet20_ce_1xb64-30e_cifar10-sample.py"
model = dict(feature_dim=2)
