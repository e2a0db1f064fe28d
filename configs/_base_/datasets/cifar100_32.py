# CIFAR-100 in place of CIFAR-10; all else is the same.
_base_ = "cifar10_32.py"
data_root = "data/cifar100"
train_dataloader = dict(dataset=dict(dataset=dict(name="cifar100", data_root=data_root)))
val_dataloader = dict(dataset=dict(dataset=dict(name="cifar100", data_root=data_root)))
test_dataloader = val_dataloader
