"""ImageNet as class folders, and the original Tiny ImageNet layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import DATASETS

from sosr_det.data.class_folders import read_class_folders
from sosr_det.data.image_dataset import ClassificationDataset, require_folder
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

    Raises:
        DataError: missing folder, a class folder without images, a validation class unknown in training, or a
            flat validation folder without labels.
    """

    def __init__(self, data_root: str, split: str, pipeline: Sequence[dict]) -> None:
        if split not in ("train", "val"):
            raise DataError(f"split must be 'train' or 'val', got {split!r}")
        root = Path(data_root)
        remedy = (
            "Expected the ImageNet layout ROOT/train/<class>/*.JPEG and ROOT/val/<class>/*.JPEG; set the root with "
            "--data-root or $SOSR_DATA, or make demo data with `sosr-det data demo --out DIR`."
        )
        require_folder(root, "image data not found", remedy)
        train = require_folder(root / "train", "training images not found", remedy)
        classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
        if not classes:
            raise DataError(f"no class folders in {train}. {remedy}")
        folder = (
            train if split == "train" else require_folder(root / "val", "validation images not found", remedy)
        )
        labels = {name: label for label, name in enumerate(classes)}
        annotations = folder / "val_annotations.txt"
        if split == "val" and annotations.is_file() and (folder / "images").is_dir():
            samples = _read_tiny_imagenet_val(annotations, labels)
        else:
            samples = read_class_folders(folder, labels)
        super().__init__(root, samples, classes, pipeline)


def _read_tiny_imagenet_val(annotations: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    samples = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{annotations}:{number}: expected 'file<TAB>class<TAB>box', got {line!r}")
        if fields[1] not in labels:
            raise DataError(f"{annotations}:{number}: class {fields[1]!r} has no folder in training")
        samples.append((annotations.parent / "images" / fields[0], labels[fields[1]]))
    missing = [path for path, _ in samples if not path.exists()]
    if missing:
        raise DataError(
            f"{len(missing)} images listed in {annotations} are missing, the first is {missing[0]}"
        )
    return samples
