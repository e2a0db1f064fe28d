# ImageNet-1k folders at 224 px with the usual augmentation (random resized crop, flip).
data_root = "data/imagenet"
train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size=224, antialias=True),
    dict(type="torchvision/RandomHorizontalFlip", p=0.5),
]
val_pipeline = [
    dict(type="torchvision/Resize", size=256, antialias=True),
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
