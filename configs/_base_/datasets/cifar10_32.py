# CIFAR-10 at 32 px: torchvision's files or class folders. Decoded once, held in memory as uint8, augmented in batches
# with the customary crop (4 px of black padding) and flip.
data_root = "data/cifar10"
batch_pipeline = [
    dict(type="BatchRandomCrop", padding=4, padding_mode="constant"),
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
        dataset=dict(type="CIFAR", name="cifar10", data_root=data_root, split="train", pipeline=[]),
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
        dataset=dict(type="CIFAR", name="cifar10", data_root=data_root, split="val", pipeline=[]),
        batch_pipeline=[],
    ),
)
test_dataloader = val_dataloader
