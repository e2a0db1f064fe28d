# The paper's section 3.4: 30 epochs, start lr 1e-5, x0.1 when the training loss has not improved for 3 epochs.
# patience counts as in PyTorch: 2 bad epochs are forgiven, the third in a row lowers the rate.
max_epochs = 30
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="TrainLossPlateauLR", factor=0.1, patience=2, threshold=1e-4)]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=1e-5),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
# The paper gives the rate but no batch size, and Adam's rate need not grow with the batch: it stays as it is.
auto_scale_lr = dict(enable=False, base_batch_size=2)
