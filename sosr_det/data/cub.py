"""CUB-200-2011 as its archive unpacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import DATASETS

from sosr_det.data.image_dataset import ClassificationDataset, require_folder
from sosr_det.errors import DataError


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
