# MMDetection's own RetinaNet-R50-FPN for VOC07+12, with what it leaves silent made loud:
# - CheckedVOCDataset: unknown class names and missing files stop the run, degenerate boxes are left out and counted,
#   boxes that `bbox_min_size` turns into ignored ones are counted;
# - VOCDevkitMetric: 11-point and area AP as the devkit defines them, unrounded;
# - the backbone is compared with its registry entry, tensor by tensor, before the first step.
# Kept from MMDetection, so that its published 77.3 mAP stays comparable: RepeatDataset(times=3), which makes
# 4 epochs 12 passes; bbox_min_size=32; validation on VOC2007 test. lr 0.01 is for batch 16 (8 GPUs x 2).
_base_ = "mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py"
custom_imports = dict(imports=["sosr_det.register"], allow_failed_imports=False)
stage = "detection"

data_root = "data/VOCdevkit/"
train_dataset = dict(
    type="CheckedVOCDataset",
    data_root=data_root,
    filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
    pipeline=_base_.train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            datasets=[
                dict(
                    ann_file="VOC2007/ImageSets/Main/trainval.txt",
                    data_prefix=dict(sub_data_root="VOC2007/"),
                    **train_dataset,
                ),
                dict(
                    ann_file="VOC2012/ImageSets/Main/trainval.txt",
                    data_prefix=dict(sub_data_root="VOC2012/"),
                    **train_dataset,
                ),
            ]
        )
    )
)
val_dataloader = dict(dataset=dict(type="CheckedVOCDataset", data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="VOCDevkitMetric")
test_evaluator = val_evaluator

custom_hooks = [dict(type="BackboneContractHook")]
default_hooks = dict(
    checkpoint=dict(
        type="CheckpointHook", interval=1, max_keep_ckpts=1, save_best="voc/map_11point", rule="greater"
    )
)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)
randomness = dict(seed=0)
auto_scale_lr = dict(enable=True, base_batch_size=16)
