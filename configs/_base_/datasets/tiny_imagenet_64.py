# Tiny ImageNet (200 classes, 64 px) in its original layout or as class folders.
data_root = "data/tiny-imagenet-200"
train_pipeline = [
    dict(type="torchvision/RandomCrop", size=64, padding=8, padding_mode="reflect"),
    dict(type="torchvision/RandomHorizontalFlip", p=0.5),
]
val_pipeline = [
    dict(type="torchvision/Resize", size=64, antialias=True),
    dict(type="torchvision/CenterCrop", size=64),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="val", pipeline=val_pipeline),
)
test_dataloader = val_dataloader
