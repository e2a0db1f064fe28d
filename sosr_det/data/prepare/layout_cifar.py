"""Reading CIFAR: the authors' Python files (the ones torchvision uses), or class folders of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sosr_det.data.prepare.catalogue import dataset_entry
from sosr_det.data.prepare.checksum import file_md5
from sosr_det.data.prepare.inspection import Inspection, Split
from sosr_det.data.prepare.layout_class_folders import read_class_folders
from sosr_det.plain_pickle import load_plain

_TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
# name: (files by split, the key of the labels, the file with the class names, its key)
_FILES: dict[str, tuple[dict[str, tuple[str, ...]], str, str, str]] = {
    "cifar10": (
        {"train": _TRAIN_BATCHES, "test": ("test_batch",)},
        "labels",
        "batches.meta",
        "label_names",
    ),
    "cifar100": ({"train": ("train",), "test": ("test",)}, "fine_labels", "meta", "fine_label_names"),
}
# torchvision.datasets.CIFAR10 and CIFAR100: `train_list`, `test_list`, `meta`.
PUBLISHED_MD5 = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
}
_PIXELS = 3 * 32 * 32


def read_cifar(root: Path, name: str) -> Inspection:
    """Count the images of both splits; ``name`` is ``cifar10`` or ``cifar100``.

    The Python files are compared with their published MD5 and unpickled without running anything that they name.
    """
    folder = root / dataset_entry(name).archive_top
    if not folder.is_dir():
        return read_class_folders(root, {"train": "train", "test": "test"})
    splits, label_key, meta_file, names_key = _FILES[name]
    found = Inspection(root, "the authors' Python files")
    meta = _read_pickle(found, folder / meta_file)
    class_names = meta.get(names_key) if isinstance(meta, dict) else None
    if not isinstance(class_names, list):
        found.problem("malformed", folder / meta_file, f"has no list {names_key!r}")
        class_names = []
    changed = []
    for split, files in splits.items():
        labels: list[Any] = []
        for file in files:
            labels += _read_labels(found, folder / file, label_key, len(class_names))
        found.splits[split] = Split(
            images=len(labels), class_counts=Counter(class_names[label] for label in labels)
        )
    for file, expected in PUBLISHED_MD5[name].items():
        if (folder / file).is_file() and file_md5(folder / file) != expected:
            changed.append(file)
    for file in changed:
        found.problem(
            "checksum", folder / file, f"is not the published file (md5 {PUBLISHED_MD5[name][file]})"
        )
    return found


def _read_labels(found: Inspection, path: Path, key: str, num_classes: int) -> list[int]:
    batch = _read_pickle(found, path)
    if batch is None:
        return []
    pixels, labels = (batch.get("data"), batch.get(key)) if isinstance(batch, dict) else (None, None)
    if getattr(pixels, "shape", ())[1:] != (_PIXELS,) or str(getattr(pixels, "dtype", "")) != "uint8":
        found.problem("undecodable", path, f"'data' must be a uint8 array [images, {_PIXELS}]")
        return []
    if not isinstance(labels, list) or len(labels) != len(pixels):
        found.problem("malformed", path, f"{key!r} must list one label for each of {len(pixels)} images")
        return []
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < num_classes]
    if wrong:
        found.problem("malformed", path, f"{len(wrong)} labels are not in 0..{num_classes - 1}: {wrong[0]!r}")
    return [label for label in labels if isinstance(label, int) and 0 <= label < num_classes]


def _read_pickle(found: Inspection, path: Path) -> Any:
    if not path.is_file():
        found.problem("missing", path, "file not found")
        return None
    try:
        return load_plain(path.read_bytes(), encoding="latin1")
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found.problem("undecodable", path, f"cannot be read: {reason}")
        return None
