# CIFAR and Tiny ImageNet from scratch: SGD, lr 0.1 for batch 128, x0.1 at epochs 150 and 225, 300 epochs.
# The paper states the 300 epochs alone (section 2.1, CIFAR-100). The rest are the defaults of the CIFAR scripts in its
# authors' public code, https://github.com/cs-xuancheng/SelectiveOutputSmoothing (its Fig. 3 script uses no Nesterov
# momentum, another one does).
total_epochs = 300
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=total_epochs, val_interval=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=total_epochs, by_epoch=True, milestones=[150, 225], gamma=0.1)
]
# lr follows the real batch size (GPUs x batch_size_per_device) linearly.
auto_scale_lr = dict(enable=True, base_batch_size=128)
