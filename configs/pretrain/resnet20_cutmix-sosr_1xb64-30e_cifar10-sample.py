# ResNet-20 with CutMix (on half of the batches, as on CIFAR in its public code) and SOSR, P = 0.99 and beta = 0.5,
# on CIFAR-10 or on a class-folder sample of it: minutes on a CPU, and a small experiment, not a row of the paper.
# Command: tools/pretrain.sh pretrain/resnet20_cutmix-sosr_1xb64-30e_cifar10-sample 1 --data-root DIR --seed 0
# Needs DIR/{train,test}/<class>/*.jpg or torchvision's CIFAR-10 files under DIR. Writes dynamics.json (Figs. 1 and 2) too.
_base_ = "resnet20_ce_1xb64-30e_cifar10-sample.py"
model = dict(
    loss=dict(_delete_=True, type="SOSRLoss", threshold=0.99, weight=0.5),
    data_preprocessor=dict(
        batch_augments=[dict(type="torchvision/CutMix", num_classes=10, alpha=1.0)],
        batch_augment_probability=0.5,
    ),
)
