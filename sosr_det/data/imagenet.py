"""ImageNet as class folders, and the original Tiny ImageNet layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import DATASETS

from sosr_det.data.image_dataset import ClassificationDataset
from sosr_det.data.image_index.cache import open_image_index
from sosr_det.errors import DataError


@DATASETS.register_module()
class ImageNetFolder(ClassificationDataset):
    """One folder per class, as ImageNet is usually unpacked; also the original Tiny ImageNet layout.

    Args:
        data_root: folder that holds ``train/`` and ``val/``.
        split: ``'train'`` or ``'val'``.
        pipeline: transform configs.

    ``split/<class>/**/*.JPEG`` is read recursively, which covers Tiny ImageNet's ``train/<wnid>/images/``. Where
    ``val/val_annotations.txt`` exists the validation labels come from that file (Tiny ImageNet).
    Classes are the sorted folder names of ``train/``, so labels agree between the splits.

    The list of images is read once and kept: see :mod:`sosr_det.data.image_index.cache`.

    Raises:
        DataError: missing folder, a class folder without images, a validation class unknown in training, or a
            flat validation folder without labels.
    """

    def __init__(self, data_root: str, split: str, pipeline: Sequence[dict]) -> None:
        if split not in ("train", "val"):
            raise DataError(f"split must be 'train' or 'val', got {split!r}")
        root = Path(data_root)
        index = open_image_index(root, split).index
        super().__init__(root, index, index.classes, pipeline)
