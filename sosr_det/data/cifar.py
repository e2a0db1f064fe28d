"""CIFAR-10 and CIFAR-100, from the published Python files or from class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.registry import DATASETS
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from sosr_det.data.class_folders import read_class_folders
from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.image_dataset import ClassificationDataset, require_folder
from sosr_det.errors import ConfigError, DataError

_PUBLISHED = {"cifar10": CIFAR10, "cifar100": CIFAR100}
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}


@DATASETS.register_module()
class CIFAR(ClassificationDataset):
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), 32 px.

    Two layouts are read. The published Python version, ``data_root/cifar-10-batches-py`` or
    ``data_root/cifar-100-python``: its files are pickles, and are opened only after their md5 sums were found to be the
    published ones. Where that folder is absent: class folders ``data_root/{train,test}/<class>/*.png`` (or jpg). Both
    give the same labels, as the published class lists are in alphabetical order.

    Args:
        data_root: folder that holds one of the layouts.
        name: ``'cifar10'`` or ``'cifar100'`` (its 100 fine classes).
        split: ``'train'``, or ``'val'`` or ``'test'``, which both mean the data set's test images.
        pipeline: transform configs, applied to the uint8 image ``[3, H, W]``.

    Raises:
        DataError: neither layout is there, a file that is not the published one, another number of classes than the
            name says, a class without images.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """

    def __init__(self, data_root: str, name: str, split: str, pipeline: Sequence[dict] = ()) -> None:
        if name not in _PUBLISHED:
            raise DataError(f"name must be 'cifar10' or 'cifar100', got {name!r}")
        if split not in ("train", "val", "test"):
            raise DataError(f"split must be 'train', 'val' or 'test', got {split!r}")
        self.name = name
        published = _PUBLISHED[name]
        root = require_folder(Path(data_root), f"{name} not found", _remedy(name))
        self._images: Tensor | None = None
        if (root / published.base_folder).is_dir():
            self._images, samples, classes = _read_published_files(root, published, name, split)
        elif (root / "train").is_dir():
            samples, classes = _read_image_folders(root, name, split)
        else:
            held = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
            raise DataError(f"{name} not found in {root}, which holds {held}. {_remedy(name)}")
        super().__init__(root, samples, classes, pipeline)

    def read_image(self, index: int) -> Tensor:
        """The stored image, before the pipeline: uint8 ``[3, H, W]`` in RGB."""
        if self._images is None:
            return super().read_image(index)
        return self._images[index].clone()  # a transform in place must not change the stored image

    def read_encoded(self, index: int) -> EncodedImage:
        """The stored file, where the images are files."""
        if self._images is not None:
            raise ConfigError(
                f"the published {self.name} files hold pixels, not image files: a pipeline for them cannot begin with "
                "a transform that decodes. Use torchvision's transform of the same kind."
            )
        return super().read_encoded(index)


def _remedy(name: str) -> str:
    published = _PUBLISHED[name]
    return (
        f"Expected ROOT/{published.base_folder}/ (unpack {published.filename} from {published.url} there) or images in "
        f"ROOT/train/<class>/ and ROOT/test/<class>/; `sosr-det data prepare {name} --root DIR` makes the first. "
        "Set the root with --data-root or $SOSR_DATA."
    )


def _read_published_files(
    root: Path, published: type[CIFAR10], name: str, split: str
) -> tuple[Tensor, list[tuple[Path, int]], list[str]]:
    folder = root / published.base_folder
    files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    for file, md5 in files:
        if not (folder / file).is_file():
            raise DataError(f"{folder / file} is missing. {_remedy(name)}")
        if not check_integrity(str(folder / file), md5):
            raise DataError(
                f"{folder / file} is not the published file (its md5 sum is not {md5}): damaged, cut off or changed. "
                f"It was not opened. Unpack {published.filename} again, or run `sosr-det data prepare {name}`."
            )
    data = published(str(root), train=split == "train", download=False)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    part = "train" if split == "train" else "test"
    samples = [(folder / f"{part}[{number}]", int(label)) for number, label in enumerate(data.targets)]
    return images, samples, list(data.classes)


def _read_image_folders(root: Path, name: str, split: str) -> tuple[list[tuple[Path, int]], list[str]]:
    classes = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir())
    if len(classes) != NUM_CLASSES[name]:
        raise DataError(
            f"{root / 'train'} has {len(classes)} class folders, {name} has {NUM_CLASSES[name]} classes. Correct the "
            "name or the folders; images of other classes are read by dict(type='ImageNetFolder')."
        )
    labels = {label: number for number, label in enumerate(classes)}
    part = "train" if split == "train" else "test"
    folder = require_folder(root / part, f"{name}'s {part} images not found", _remedy(name))
    return read_class_folders(folder, labels), classes
