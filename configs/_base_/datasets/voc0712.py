# VOC2007 + VOC2012 trainval for training, VOC2007 test for testing: MMDetection's data, with what it leaves silent made
# loud, and with a part of trainval held out, so that no epoch is chosen by looking at the test set.
# - CheckedVOCDataset: unknown class names and missing files stop the run, degenerate boxes are left out and counted,
#   boxes that `bbox_min_size` turns into ignored ones are counted;
# - holdout: 5 % of trainval, by the hash of an image's id, is for choosing the epoch (`--select-on val`, the default)
#   and is not trained on. `--select-on test` and `--select-on last` train on all of trainval;
# - VOCDevkitMetric: 11-point and area AP as the devkit defines them, unrounded.
# Kept from MMDetection: images of at most 1000 x 600 px, RepeatDataset(times=3), bbox_min_size=32.
_base_ = "mmdet::_base_/datasets/voc0712.py"
data_root = "data/VOCdevkit/"
holdout_fraction = 0.05
train_dataset = dict(
    type="CheckedVOCDataset",
    data_root=data_root,
    filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
    holdout=dict(fraction=holdout_fraction, part="train"),
    pipeline=_base_.train_pipeline,
)
val_dataset = dict(
    type="CheckedVOCDataset",
    data_root=data_root,
    test_mode=True,
    holdout=dict(fraction=holdout_fraction, part="val"),
    pipeline=_base_.test_pipeline,
    backend_args=None,
)
voc2007_trainval = dict(
    ann_file="VOC2007/ImageSets/Main/trainval.txt", data_prefix=dict(sub_data_root="VOC2007/")
)
voc2012_trainval = dict(
    ann_file="VOC2012/ImageSets/Main/trainval.txt", data_prefix=dict(sub_data_root="VOC2012/")
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            datasets=[dict(**voc2007_trainval, **train_dataset), dict(**voc2012_trainval, **train_dataset)]
        )
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        ignore_keys=["dataset_type"],
        datasets=[dict(**voc2007_trainval, **val_dataset), dict(**voc2012_trainval, **val_dataset)],
    )
)
test_dataloader = dict(dataset=dict(type="CheckedVOCDataset", data_root=data_root))
val_evaluator = dict(_delete_=True, type="VOCDevkitMetric")
test_evaluator = val_evaluator
