"""Image-classification data by name: importing this module registers its data sets and augmentations with mmengine.

Each data set yields ``dict(inputs=uint8 tensor [3, H, W] in RGB, labels=int)``; normalisation
happens on the device, in the model's preprocessor.
"""

from sosr_det.data.batch_augment import BatchRandomCrop, BatchRandomHorizontalFlip, PerImage
from sosr_det.data.batch_erase import BatchCutout, BatchRandomErasing
from sosr_det.data.cifar import CIFAR
from sosr_det.data.cub import CUB200
from sosr_det.data.cutout import Cutout
from sosr_det.data.decode.dali import DaliDecoder
from sosr_det.data.decode.planned import PlanRandomResizedCrop, collate_planned
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop, DecodeResize
from sosr_det.data.fast_autoaugment import FastAutoAugment
from sosr_det.data.image_dataset import IMAGE_SUFFIXES, ClassificationDataset, read_rgb_image, require_folder
from sosr_det.data.imagenet import ImageNetFolder
from sosr_det.data.in_memory import InMemoryDataset, already_collated
from sosr_det.data.shards.dataset import ShardedImages
from sosr_det.data.shards.sampler import ShardSampler

__all__ = [
    "CIFAR",
    "CUB200",
    "IMAGE_SUFFIXES",
    "BatchCutout",
    "BatchRandomCrop",
    "BatchRandomErasing",
    "BatchRandomHorizontalFlip",
    "ClassificationDataset",
    "Cutout",
    "DaliDecoder",
    "DecodeRandomResizedCrop",
    "DecodeResize",
    "FastAutoAugment",
    "ImageNetFolder",
    "InMemoryDataset",
    "PerImage",
    "PlanRandomResizedCrop",
    "ShardSampler",
    "ShardedImages",
    "already_collated",
    "collate_planned",
    "read_rgb_image",
    "require_folder",
]
