# The schedule of the authors' ImageNet script (https://github.com/cs-xuancheng/SelectiveOutputSmoothing, later than the
# paper): SGD, lr 0.1 for batch 256, x0.1 at epochs 75, 150 and 225, 300 epochs, weight decay 1e-4.
total_epochs = 300
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=total_epochs, val_interval=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=total_epochs, by_epoch=True, milestones=[75, 150, 225], gamma=0.1)
]
# lr follows the real batch size (GPUs x batch_size_per_device) linearly.
auto_scale_lr = dict(enable=True, base_batch_size=256)
