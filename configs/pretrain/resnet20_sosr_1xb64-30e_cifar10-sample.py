# ResNet-20 with SOSR, P = 0.99 and beta = 0.5,
# on CIFAR-10 or on a class-folder sample of it: minutes on a CPU, and a small experiment, not a row of the paper.
# Command: tools/pretrain.sh pretrain/resnet20_sosr_1xb64-30e_cifar10-sample 1 --data-root DIR --seed 0
# Needs DIR/{train,test}/<class>/*.jpg or torchvision's CIFAR-10 files under DIR. Writes dynamics.json (Figs. 1 and 2) too.
_base_ = "resnet20_ce_1xb64-30e_cifar10-sample.py"
model = dict(loss=dict(_delete_=True, type="SOSRLoss", threshold=0.99, weight=0.5))
