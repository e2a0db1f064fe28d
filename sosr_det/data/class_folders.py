"""One folder per class: ``FOLDER/<class>/**/<image>``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sosr_det.data.image_dataset import IMAGE_SUFFIXES
from sosr_det.errors import DataError

# Listing a folder on a file server is mostly waiting.
_THREADS = 8


def class_names(folder: Path) -> list[str]:
    """The names of the class folders of ``folder``, sorted: a label is a place in the list."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def list_class_folders(folder: Path, labels: dict[str, int]) -> tuple[list[tuple[str, int]], list[str]]:
    """The images below the class folders of ``folder`` in sorted order, and the folders that were listed.

    Returns:
        ``(path, label)`` pairs, and folders; both relative to ``folder`` and with ``/``.

    Raises:
        DataError: no class folders, or a class folder that ``labels`` lacks.
    """
    found = class_names(folder)
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
    samples, folders = [], []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="list") as executor:
        for name, (paths, listed) in zip(
            found, executor.map(lambda name: list_images(folder, name), found), strict=True
        ):
            label = labels[name]
            samples += [(path, label) for path in paths]
            folders += listed
    return samples, folders


def list_images(folder: Path, name: str) -> tuple[Sequence[str], list[str]]:
    """All images below ``folder/name``, sorted part by part, and the folders seen; relative to ``folder``."""
    images, folders, waiting = [], [], [name]
    while waiting:
        place = waiting.pop()
        folders.append(place)
        with os.scandir(os.path.join(folder, place)) as entries:
            for entry in entries:
                # Links to folders are not followed: they may lead in circles.
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{place}/{entry.name}")
                elif is_image(entry.name):
                    images.append(f"{place}/{entry.name}")
    # As paths compare, which is not as their texts do: "a/b.jpg" comes before "a.jpg".
    images.sort(key=lambda path: path.split("/"))
    return images, folders


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's; ``.jpg`` alone is a hidden file without a suffix."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in IMAGE_SUFFIXES


def read_class_folders(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """``(path, label)`` of every image below the class folders of ``folder``, in sorted order.

    Raises:
        DataError: no class folders, or a class folder that ``labels`` lacks.
    """
    samples, _ = list_class_folders(folder, labels)
    return [(folder / path, label) for path, label in samples]
