# ImageNet-1k folders at 224 px with the usual augmentation (random resized crop, flip). The Decode… steps give the pixels
# of torchvision's RandomResizedCrop and Resize with antialias=True, but decode less (docs/input_pipeline.md).
data_root = "data/imagenet"
train_pipeline = [
    dict(type="DecodeRandomResizedCrop", size=224, flip_prob=0.5),
]
val_pipeline = [
    dict(type="DecodeResize", size=256),
    dict(type="torchvision/CenterCrop", size=224),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="val", pipeline=val_pipeline),
)
test_dataloader = val_dataloader
