"""Reading the folders of ImageNet's layouts: the images of a split, and what tells later that they changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sosr_det.data.class_folders import class_names, list_class_folders
from sosr_det.data.image_dataset import require_folder
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.errors import DataError

CLASS_FOLDERS = "class folders"
TINY_VAL = "val_annotations.txt"
_REMEDY = (
    "Expected the ImageNet layout ROOT/train/<class>/*.JPEG and ROOT/val/<class>/*.JPEG; set the root with "
    "--data-root or $SOSR_DATA, or make demo data with `sosr-det data demo --out DIR`."
)


@dataclass(frozen=True)
class Scan:
    """What a split holds.

    Attributes:
        index: its images.
        layout: ``'class folders'``, or ``'val_annotations.txt'`` as in Tiny ImageNet's validation split.
        places: the folders and lists that this depends on, relative to the root.
    """

    index: ImageIndex
    layout: str
    places: list[str]


def scan_split(root: Path, split: str) -> Scan:
    """Read the folders of ``root/split``; the classes are the folder names of ``root/train``.

    Raises:
        DataError: missing folders, no images, a class that training lacks, a listed image that is missing.
    """
    require_folder(root, "image data not found", _REMEDY)
    train = require_folder(root / "train", "training images not found", _REMEDY)
    classes = class_names(train)
    if not classes:
        raise DataError(f"no class folders in {train}. {_REMEDY}")
    folder = (
        train if split == "train" else require_folder(root / split, "validation images not found", _REMEDY)
    )
    labels = {name: label for label, name in enumerate(classes)}
    annotations = folder / "val_annotations.txt"
    places = ["train"] if split == "train" else ["train", split]
    if split == "val" and annotations.is_file() and (folder / "images").is_dir():
        samples = _read_tiny_imagenet_val(annotations, labels)
        layout = TINY_VAL
        places += [f"{split}/val_annotations.txt", f"{split}/images"]
    else:
        samples, listed = list_class_folders(folder, labels)
        layout = CLASS_FOLDERS
        places += [f"{split}/{place}" for place in listed]
    index = ImageIndex.from_samples(((f"{split}/{path}", label) for path, label in samples), classes)
    return Scan(index, layout, places)


def _read_tiny_imagenet_val(annotations: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    samples = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{annotations}:{number}: expected 'file<TAB>class<TAB>box', got {line!r}")
        if fields[1] not in labels:
            raise DataError(f"{annotations}:{number}: class {fields[1]!r} has no folder in training")
        samples.append((f"images/{fields[0]}", labels[fields[1]]))
    missing = [path for path, _ in samples if not (annotations.parent / path).exists()]
    if missing:
        raise DataError(
            f"{len(missing)} images listed in {annotations} are missing, the first is {annotations.parent / missing[0]}"
        )
    return samples
