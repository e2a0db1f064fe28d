# MMDetection's schedule for VOC07+12: SGD, x0.1 after epoch 3 of 4. Its data hold every image 3 times, so these are 12
# passes. lr 0.01 is for 16 images a step (8 GPUs x 2) and follows the real number.
max_epochs = 4
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[3], gamma=0.1)]
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001)
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
