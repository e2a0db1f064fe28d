"""Image-classification data sets in the layouts that people have on disk.

Each data set yields ``dict(inputs=uint8 tensor [3, H, W] in RGB, labels=int)``; normalisation
happens on the device, in the model's preprocessor.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.registry import DATASETS, TRANSFORMS
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from sosr_det.errors import DataError

# What `read_rgb_image` can decode.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def _register_torchvision_transforms() -> None:
    """Make every torchvision v2 transform usable in a config as ``torchvision/NAME`` (mmpretrain's naming)."""
    for name in dir(v2):
        transform = getattr(v2, name)
        if isinstance(transform, type) and issubclass(transform, v2.Transform):
            key = f"torchvision/{name}"
            if key not in TRANSFORMS.module_dict:
                TRANSFORMS.register_module(name=key, module=transform)


_register_torchvision_transforms()


class ClassificationDataset(torch.utils.data.Dataset):
    """Images on disk with one label each; the base of the layouts below.

    Args:
        root: folder of the data set, for messages and relative paths.
        samples: ``(path, label)`` pairs, label in ``[0, len(classes))``.
        classes: class names by label.
        pipeline: transform configs, applied in order to the decoded uint8 image.

    Raises:
        DataError: no samples at all, or a class without a sample.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[tuple[Path, int]],
        classes: Sequence[str],
        pipeline: Sequence[dict],
    ) -> None:
        self.root = Path(root)
        self.classes = list(classes)
        counts = Counter(label for _, label in samples)
        empty = [name for label, name in enumerate(self.classes) if counts[label] == 0]
        if empty:
            shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            raise DataError(
                f"{len(empty)} of {len(self.classes)} classes under {self.root} have no image: {shown}. "
                f"Every class needs at least one file ending in {' '.join(IMAGE_SUFFIXES)}; "
                "remove the empty class folders or fill them."
            )
        # Paths as one relative string each keep the per-worker copy small.
        self._relative_paths = [str(Path(path).relative_to(self.root)) for path, _ in samples]
        self._labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        steps = [TRANSFORMS.build(dict(step)) for step in pipeline]
        self.transform: Callable[[Tensor], Tensor] = v2.Compose(steps) if steps else v2.Identity()

    @property
    def metainfo(self) -> dict:
        """``dict(classes=(...))``: what mmengine stores in checkpoints and gives to evaluators."""
        return {"classes": tuple(self.classes)}

    def __len__(self) -> int:
        return len(self._relative_paths)

    def __getitem__(self, index: int) -> dict:
        path = self.root / self._relative_paths[index]
        return {"inputs": self.transform(read_rgb_image(path)), "labels": int(self._labels[index])}

    def fingerprint(self) -> str:
        """sha256 over the sorted ``relative path <tab> label`` lines and the class list.

        Names the selection of files, not their contents: hashing the pixels of ImageNet takes minutes.
        """
        lines = sorted(f"{p}\t{y}" for p, y in zip(self._relative_paths, self._labels.tolist(), strict=True))
        return hashlib.sha256("\n".join([*self.classes, "", *lines]).encode()).hexdigest()


def read_rgb_image(path: Path) -> Tensor:
    """Decode a JPEG, PNG, WebP or GIF file to a uint8 RGB tensor ``[3, H, W]``.

    Raises:
        DataError: the file is missing or cannot be decoded; the message names the path.
    """
    try:
        return decode_image(str(path), mode=ImageReadMode.RGB)
    except (RuntimeError, OSError) as error:
        if not Path(path).exists():
            raise DataError(
                f"image {path} is missing; was the data set moved or changed during the run?"
            ) from error
        size = Path(path).stat().st_size
        raise DataError(
            f"image {path} ({size} bytes) cannot be decoded: {str(error).splitlines()[0]}. "
            "Replace the file from the original archive, or remove it from the data set."
        ) from error


def require_folder(path: Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a folder, else raise a :class:`DataError` that says what was expected there."""
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{what}: {path} {found}. {remedy}")
    return path


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
            samples = _read_class_folders(folder, labels)
        super().__init__(root, samples, classes, pipeline)


def _read_class_folders(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not found:
        raise DataError(
            f"{folder} holds no class folders. ImageNet's validation archive is flat: sort its images into one "
            "folder per class first (PyTorch's valprep.sh does it)."
        )
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} class folders that training lacks: {', '.join(unknown[:5])}. "
            "Labels would not agree; both splits need the same classes."
        )
    samples = []
    for name in found:
        paths = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        samples += [(path, labels[name]) for path in paths]
    return samples


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


@DATASETS.register_module()
class CUB200(ClassificationDataset):
    """CUB-200-2011 (Wah et al. 2011) as its archive unpacks.

    Args:
        data_root: folder with ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt``,
            ``classes.txt`` (optional) and ``images/``.
        split: ``'train'`` (flag 1) or ``'test'`` (flag 0): the data set's own split.
        pipeline: transform configs.

    Some test images are also in ImageNet (22-23 byte-identical ones are known), so results that start from an
    ImageNet backbone are slightly optimistic.

    Raises:
        DataError: missing or malformed files (named with their line), ids that do not agree, missing images.
    """

    def __init__(self, data_root: str, split: str, pipeline: Sequence[dict]) -> None:
        if split not in ("train", "test"):
            raise DataError(f"split must be 'train' or 'test', got {split!r}")
        root = require_folder(
            Path(data_root),
            "CUB-200-2011 not found",
            "Unpack CUB_200_2011.tgz and pass the folder that holds images.txt with --data-root.",
        )
        images = _read_id_table(root / "images.txt")
        labels = _read_id_table(root / "image_class_labels.txt")
        flags = _read_id_table(root / "train_test_split.txt")
        for name, table in (("image_class_labels.txt", labels), ("train_test_split.txt", flags)):
            differing = images.keys() ^ table.keys()
            if differing:
                raise DataError(
                    f"{root / name} and images.txt list different image ids, for example {min(differing)!r}; "
                    "the files must come from one archive."
                )
        bad = next((i for i, y in labels.items() if not y.isdigit() or int(y) < 1), None)
        if bad is not None:
            raise DataError(
                f"{root / 'image_class_labels.txt'}: image {bad} has label {labels[bad]!r}, expected 1, 2, …"
            )
        num_classes = max(int(label) for label in labels.values())
        classes = self._class_names(root, num_classes)
        wanted = "1" if split == "train" else "0"
        samples = [
            (root / "images" / path, int(labels[i]) - 1) for i, path in images.items() if flags[i] == wanted
        ]
        missing = [path for path, _ in samples if not path.exists()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(samples)} {split} images listed in {root / 'images.txt'} are missing, "
                f"the first is {missing[0]}"
            )
        super().__init__(root, samples, classes, pipeline)

    @staticmethod
    def _class_names(root: Path, num_classes: int) -> list[str]:
        if not (root / "classes.txt").is_file():
            return [f"class {number:03d}" for number in range(1, num_classes + 1)]
        table = _read_id_table(root / "classes.txt")
        expected = [str(number) for number in range(1, len(table) + 1)]
        if list(table) != expected or len(table) < num_classes:
            raise DataError(f"{root / 'classes.txt'} must list the classes 1..{num_classes} in order")
        return list(table.values())


def _read_id_table(path: Path) -> dict[str, str]:
    """Read CUB's ``id value`` lines in file order."""
    if not path.is_file():
        raise DataError(f"{path} is missing; CUB-200-2011 keeps its lists beside the images folder.")
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not value or key in table:
            raise DataError(f"{path}:{number}: expected a new 'id value' pair, got {line!r}")
        table[key] = value
    if not table:
        raise DataError(f"{path} is empty")
    return table
