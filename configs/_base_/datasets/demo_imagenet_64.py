# The drawn ImageNet folders of `sosr-det data demo` at 64 px.
_base_ = "tiny_imagenet_64.py"
data_root = "demo_out/data/imagenet"
train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size=64, scale=(0.4, 1.0), antialias=True),
    dict(type="torchvision/RandomHorizontalFlip", p=0.5),
]
train_dataloader = dict(batch_size=32, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=100, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
