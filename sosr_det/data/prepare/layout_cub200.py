"""Reading CUB-200-2011's lists of images, labels, splits and classes, and the images that they name."""

from __future__ import annotations

import os
from pathlib import Path

from sosr_det.data.prepare.inspection import IMAGE_SUFFIXES, Inspection, Split
from sosr_det.data.prepare.layout_class_folders import compare_classes


def read_cub200(root: Path) -> Inspection:
    """List the images of both splits and compare the lists with each other and with the files."""
    found = Inspection(root, "CUB-200-2011's own lists")
    images, labels, flags, classes = (
        _read_table(found, root / f"{name}.txt")
        for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    for name, table in (("image_class_labels.txt", labels), ("train_test_split.txt", flags)):
        if differing := sorted(images.keys() ^ table.keys()):
            found.problem(
                "malformed",
                name,
                f"{len(differing)} image ids are not in both it and images.txt: {differing[0]}",
            )
    on_disk = _files(root / "images")
    found.splits = {"train": Split(), "test": Split()}
    first_with: dict[str, str] = {}
    for identity, path in images.items():
        if path in first_with:
            found.problem(
                "repeated", f"images/{path}", f"images.txt has it as {first_with[path]} and {identity}"
            )
            continue
        first_with[path] = identity
        if path not in on_disk:
            found.problem("missing", f"images/{path}", f"not found, but images.txt lists it as {identity}")
            continue
        label, flag = labels.get(identity), flags.get(identity)
        if label is None or flag is None:
            continue  # reported above
        if classes and label not in classes:
            found.problem(
                "malformed", "image_class_labels.txt", f"image {identity} has unknown label {label!r}"
            )
        elif classes and classes[label] != os.path.dirname(path):
            found.problem("misplaced", f"images/{path}", f"labelled {label}, which is {classes[label]}")
        if flag not in ("0", "1"):
            found.problem(
                "malformed", "train_test_split.txt", f"image {identity} has {flag!r}, expected 0 or 1"
            )
            continue
        found.splits["train" if flag == "1" else "test"].add(f"images/{path}", classes.get(label, label))
    for path in sorted(on_disk - first_with.keys()):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            found.problem("unlisted", f"images/{path}", "is not in images.txt")
        elif not os.path.basename(path).startswith("."):
            found.problem("extension", f"images/{path}", "is no image file that is read, nor in images.txt")
    compare_classes(found)
    used = set().union(*(split.class_counts for split in found.splits.values()))
    if lacking := sorted(set(classes.values()) - used):
        found.problem(
            "classes", "classes.txt", f"{len(lacking)} classes have no image: {', '.join(lacking[:3])}"
        )
    return found


def _read_table(found: Inspection, path: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    if not path.is_file():
        found.problem("missing", path, "list not found")
        return table
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not value or key in table:
            found.problem("malformed", path, f"line {number}: expected a new 'id value' pair, got {line!r}")
            continue
        table[key] = value
    return table


def _files(images: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), images)
        for parent, _, names in os.walk(images)
        for name in names
    }
