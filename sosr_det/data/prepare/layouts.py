"""Finding a data set's folder and reading whatever layout it has."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sosr_det.data.prepare.catalogue import DatasetEntry
from sosr_det.data.prepare.inspection import Inspection
from sosr_det.data.prepare.layout_cifar import read_cifar
from sosr_det.data.prepare.layout_class_folders import read_class_folders, read_tiny_imagenet
from sosr_det.data.prepare.layout_cub200 import read_cub200
from sosr_det.data.prepare.places import Places
from sosr_det.data.prepare.voc.layout import read_voc
from sosr_det.errors import DataError

READERS: dict[str, Callable[[Path], Inspection]] = {
    "cifar10": partial(read_cifar, name="cifar10"),
    "cifar100": partial(read_cifar, name="cifar100"),
    "tiny-imagenet": read_tiny_imagenet,
    "imagenet": partial(read_class_folders, folders={"train": "train", "val": "val"}),
    "cub200": read_cub200,
    "voc": read_voc,
}
# Any of these in a folder makes it a folder of that data set, complete or not.
_MARKS = {
    "cifar10": ("cifar-10-batches-py", "train", "test"),
    "cifar100": ("cifar-100-python", "train", "test"),
    "tiny-imagenet": ("train", "val"),
    "imagenet": ("train", "val"),
    "cub200": ("images.txt", "images"),
    "voc": ("VOC2007", "VOC2012"),
}


def inspect(entry: DatasetEntry, folder: Path) -> Inspection:
    """Read the lists and folders of a data set; no image is opened."""
    return READERS[entry.layout](folder)


def find_dataset(entry: DatasetEntry, root: Path) -> Path:
    """Return the data set's folder: ``root`` or the folder of its usual name in ``root``.

    Raises:
        DataError: neither holds it.
    """
    usual = Places.of(entry, root).home
    for folder in (usual, root):
        if any((folder / mark).exists() for mark in _MARKS[entry.layout]):
            return folder
    raise DataError(
        f"no {entry.title} in {root}: neither {usual} nor {root} holds {' or '.join(_MARKS[entry.layout])}. "
        f"Get it with `sosr-det data prepare {entry.name} --root {shlex.quote(str(root))}`."
    )
