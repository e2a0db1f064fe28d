# The customary ImageNet schedule: SGD, lr 0.1 for batch 256, x0.1 at epochs 30 and 60, 90 epochs. The paper leaves its
# ImageNet schedule to supplementary material that is not public.
total_epochs = 90
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=total_epochs, val_interval=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=total_epochs, by_epoch=True, milestones=[30, 60], gamma=0.1)
]
# lr follows the real batch size (GPUs x batch_size_per_device) linearly.
auto_scale_lr = dict(enable=True, base_batch_size=256)
