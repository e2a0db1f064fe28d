# Section 3.1 of the paper: 95 epochs, lr 0.001, divided by 10 every 30 epochs.
# Not stated there, chosen here: SGD with momentum 0.9, weight decay 1e-4, batch 32 on one device, and
# no scaling of the lr with the batch size.
total_epochs = 95
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=total_epochs, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.001, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [dict(type="StepLR", begin=0, end=total_epochs, by_epoch=True, step_size=30, gamma=0.1)]
