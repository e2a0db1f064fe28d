# The VOC07+12 detector of `configs/detection`, small enough for a laptop CPU: ResNet-18, a slim neck and head,
# 160 px images, anchors from 32 px on as in the original. One pass over the data is one epoch here. A fifth of trainval
# is held out for choosing the epoch: 5 % of so few images would be next to none.
_base_ = [
    "retinanet_r50_fpn.py",
    "../datasets/voc0712.py",
    "../schedules/voc0712_1x.py",
    "../runtime/detection.py",
]
data_root = "demo_out/data/VOCdevkit/"
holdout_fraction = 0.2
image_scale = (160, 120)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataset = dict(
    type="CheckedVOCDataset",
    data_root=data_root,
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    holdout=dict(fraction=holdout_fraction, part="train"),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type="CheckedVOCDataset",
    data_root=data_root,
    test_mode=True,
    holdout=dict(fraction=holdout_fraction, part="val"),
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        times=1,
        dataset=dict(
            datasets=[
                dict(**_base_.voc2007_trainval, **train_dataset),
                dict(**_base_.voc2012_trainval, **train_dataset),
            ]
        ),
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        datasets=[
            dict(**_base_.voc2007_trainval, **val_dataset),
            dict(**_base_.voc2012_trainval, **val_dataset),
        ]
    ),
)
test_dataloader = dict(batch_size=8, dataset=dict(data_root=data_root, pipeline=test_pipeline))

model = dict(
    backbone=dict(depth=18, norm_eval=False),  # small data: let the statistics follow the new scale
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
    test_cfg=dict(nms_pre=300),
)
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=4)
