"""Reading ``SPLIT/<class>/**/*.JPEG`` (ImageNet, class-folder CIFAR) and Tiny ImageNet's own layout."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sosr_det.data.prepare.inspection import IMAGE_SUFFIXES, Inspection, Split

# Lists and boxes that data sets keep beside their images, and what desktops leave behind.
_NO_IMAGES = frozenset((".txt", ".xml", ".json", ".csv", ".md", ".mat", ".ini", ".db"))
_WORDNET_FILE = re.compile(r"(n\d{8})_")
_WORDNET_ID = re.compile(r"n\d{8}")


def read_class_folders(root: Path, folders: Mapping[str, str]) -> Inspection:
    """List the images of each split; ``folders`` gives each split's folder below ``root``."""
    found = Inspection(root, "class folders")
    for split, folder in folders.items():
        found.splits[split] = _read_split(found, root / folder)
    compare_classes(found)
    return found


def read_tiny_imagenet(root: Path) -> Inspection:
    """List Tiny ImageNet in its original layout, or sorted into class folders."""
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        found = read_class_folders(root, {"train": "train", "val": "val"})
    else:
        found = Inspection(root, "Tiny ImageNet's original layout")
        found.splits["train"] = _read_split(found, root / "train")
        found.splits["val"] = _read_annotated_val(found, annotations)
        compare_classes(found)
    _compare_with_list(found, root / "wnids.txt")
    return found


def compare_classes(found: Inspection) -> None:
    """Report classes that one split has and another lacks: their labels would not agree."""
    names = {name: set(split.class_counts) for name, split in found.splits.items() if split.images}
    for name, classes in names.items():
        for other, other_classes in names.items():
            if lacking := sorted(classes - other_classes):
                found.problem(
                    "classes", other, f"has no image of {len(lacking)} classes of {name}: {_few(lacking)}"
                )


def _read_split(found: Inspection, folder: Path) -> Split:
    split = Split()
    if not folder.is_dir():
        found.problem("missing", folder, "folder not found")
        return split
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            _read_class(found, split, Path(entry.path))
        elif _suffix(entry.name) in IMAGE_SUFFIXES:
            found.problem("misplaced", Path(entry.path), "lies outside of the class folders and is not read")
    if not split.images:
        found.problem("missing", folder, "holds no class folders with images")
    return split


def _read_class(found: Inspection, split: Split, folder: Path) -> None:
    before = split.images
    is_wordnet = _WORDNET_ID.fullmatch(folder.name) is not None
    for parent, subfolders, names in os.walk(folder):
        subfolders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            if _suffix(name) not in IMAGE_SUFFIXES:
                _report_other_file(found, Path(path))
                continue
            split.add(os.path.relpath(path, found.root), folder.name)
            prefix = _WORDNET_FILE.match(name) if is_wordnet else None
            if prefix and prefix[1] != folder.name:
                found.problem(
                    "misplaced", Path(path), f"its name says class {prefix[1]}, its folder {folder.name}"
                )
    if split.images == before:
        found.problem("classes", folder, "class folder without images")


def _report_other_file(found: Inspection, path: Path) -> None:
    if path.name.startswith(".") or _suffix(path.name) in _NO_IMAGES:
        return
    found.problem(
        "extension", path, f"is not read: its name does not end in {' '.join(sorted(IMAGE_SUFFIXES))}"
    )


def _read_annotated_val(found: Inspection, annotations: Path) -> Split:
    split = Split()
    images = annotations.parent / "images"
    on_disk = {entry.name for entry in os.scandir(images)} if images.is_dir() else set()
    listed: set[str] = set()
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            found.problem("malformed", annotations, f"line {number}: expected 'file<TAB>class', got {line!r}")
            continue
        name, class_name = fields[:2]
        if name in listed:
            found.problem("repeated", images / name, f"listed again in {annotations.name}, line {number}")
            continue
        listed.add(name)
        if name in on_disk:
            split.add(os.path.relpath(images / name, found.root), class_name)
        else:
            found.problem(
                "missing", images / name, f"not found, but line {number} of {annotations.name} lists it"
            )
    for name in sorted(on_disk - listed):
        if _suffix(name) in IMAGE_SUFFIXES:
            found.problem("unlisted", images / name, f"has no class in {annotations.name}")
        else:
            _report_other_file(found, images / name)
    return split


def _compare_with_list(found: Inspection, wnids: Path) -> None:
    if not wnids.is_file():
        return
    listed, there = set(wnids.read_text().split()), set(found.splits["train"].class_counts)
    if lacking := sorted(listed - there):
        found.problem(
            "classes", wnids, f"lists {len(lacking)} classes without training images: {_few(lacking)}"
        )
    if extra := sorted(there - listed):
        found.problem("classes", wnids, f"lacks {len(extra)} classes that train has: {_few(extra)}")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
