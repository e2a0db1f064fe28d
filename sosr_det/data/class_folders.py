"""One folder per class: ``FOLDER/<class>/**/<image>``."""

from __future__ import annotations

from pathlib import Path

from sosr_det.data.image_dataset import IMAGE_SUFFIXES
from sosr_det.errors import DataError


def read_class_folders(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """``(path, label)`` of every image below the class folders of ``folder``, in sorted order.

    Raises:
        DataError: no class folders, or a class folder that ``labels`` lacks.
    """
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
