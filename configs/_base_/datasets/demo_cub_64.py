# The drawn CUB-200-2011 of `sosr-det data demo` (16 classes) at 64 px.
_base_ = "cub200_448.py"
data_root = "demo_out/data/CUB_200_2011"
train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size=64, scale=(0.5, 1.0), antialias=True),
    dict(type="torchvision/RandomHorizontalFlip", p=0.5),
]
val_pipeline = [
    dict(type="torchvision/Resize", size=72, antialias=True),
    dict(type="torchvision/CenterCrop", size=64),
]
train_dataloader = dict(
    batch_size=32, num_workers=2, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=100, num_workers=2, dataset=dict(data_root=data_root, pipeline=val_pipeline))
test_dataloader = val_dataloader
