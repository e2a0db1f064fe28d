# Minutes on a laptop CPU: a one-epoch warm-up and a cosine.
_base_ = "small_30e.py"
total_epochs = 6
train_cfg = dict(max_epochs=total_epochs)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=1, end=total_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=32)
