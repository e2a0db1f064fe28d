# voc0712.py as a public RetinaNet implementation would feed it (https://github.com/yhenon/pytorch-retinanet,
# retinanet/dataloader.py): images of at most 1024 x 608 px, random flip, every box whatever its size, and each image
# once an epoch.
_base_ = "voc0712.py"
image_scale = (1024, 608)
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
    data_root=_base_.data_root,
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    holdout=dict(fraction=_base_.holdout_fraction, part="train"),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type="CheckedVOCDataset",
    data_root=_base_.data_root,
    test_mode=True,
    holdout=dict(fraction=_base_.holdout_fraction, part="val"),
    pipeline=test_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        times=1,
        dataset=dict(
            datasets=[
                dict(**_base_.voc2007_trainval, **train_dataset),
                dict(**_base_.voc2012_trainval, **train_dataset),
            ]
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(**_base_.voc2007_trainval, **val_dataset),
            dict(**_base_.voc2012_trainval, **val_dataset),
        ]
    )
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
