# ImageNet-1k as shards (`sosr-det data shard`), otherwise as imagenet_224.py: the same samples in the same order.
# data_root may be a URL such as "s3://bucket/imagenet". For storage where each jump costs, read shard after shard:
#   train_dataloader = dict(sampler=dict(_delete_=True, type="ShardSampler", window_shards=8),
#                           dataset=dict(read_ahead_bytes=8_000_000))      # or keep=True: whole shards on the local disk
_base_ = ["./imagenet_224.py"]
data_root = "data/imagenet-shards"
train_dataloader = dict(dataset=dict(type="ShardedImages", data_root=data_root))
val_dataloader = dict(dataset=dict(type="ShardedImages", data_root=data_root))
test_dataloader = val_dataloader
