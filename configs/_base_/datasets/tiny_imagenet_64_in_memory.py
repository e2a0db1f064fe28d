# Tiny ImageNet (200 classes, 64 px) in its original layout or as class folders. Decoded once and held in memory as uint8
# (1.2 GB for the training images), augmented in batches: a crop after 8 px of black padding, in proportion the 4 px of
# CIFAR, and a flip.
data_root = "data/tiny-imagenet-200"
batch_pipeline = [
    dict(type="BatchRandomCrop", padding=8, padding_mode="constant"),
    dict(type="BatchRandomHorizontalFlip", p=0.5),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="already_collated"),
    dataset=dict(
        type="InMemoryDataset",
        dataset=dict(type="ImageNetFolder", data_root=data_root, split="train", pipeline=[]),
        batch_pipeline=batch_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    pin_memory=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="already_collated"),
    dataset=dict(
        type="InMemoryDataset",
        dataset=dict(type="ImageNetFolder", data_root=data_root, split="val", pipeline=[]),
        batch_pipeline=[],
    ),
)
test_dataloader = val_dataloader
