# RetinaNet-R18-FPN on BCCD blood cells: how a VOC-format data set with its own classes goes through the same pipeline.
# Command: tools/train_det.sh detection/retinanet_r18-sosr-pre_fpn_4e_bccd --data-root DIR [--backbone URI]
# DIR holds VOC2007/{Annotations,ImageSets/Main,JPEGImages}. Not an experiment of the paper.
# Neck (64 channels), head (2 convolutions) and AdamW are the demo's, sized for a CPU.
# For your own data: other `classes` (or --classes A,B,C, or --classes scan to find them), other list files.
_base_ = "../_base_/models/retinanet_r18_fpn_demo_voc.py"
classes = ("RBC", "WBC", "Platelets")
data_root = "data/BCCD/VOCdevkit/"
image_scale = (320, 240)
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
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CheckedVOCDataset",
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file="VOC2007/ImageSets/Main/train.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    )
)
# Checkpoints are chosen on the data set's own val list, so that test is touched once.
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CheckedVOCDataset",
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file="VOC2007/ImageSets/Main/val.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        test_mode=True,
        pipeline=test_pipeline,
    )
)
test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file="VOC2007/ImageSets/Main/test.txt",
        pipeline=test_pipeline,
    )
)
model = dict(
    backbone=dict(norm_eval=True, init_cfg=dict(checkpoint="sosr://resnet18-tin200-sosr")),
    bbox_head=dict(num_classes=3),
    test_cfg=dict(nms_pre=1000, max_per_img=100),
)
max_epochs = 4
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[3], gamma=0.1),
]
