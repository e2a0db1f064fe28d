"""Reading PASCAL VOC's ``VOCdevkit/VOC{2007,2012}``: the lists of detection, with each image and annotation."""

from __future__ import annotations

import os
from pathlib import Path

from sosr_det.data.prepare.inspection import Inspection, Split

_SPLITS = (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval"))


def read_voc(root: Path) -> Inspection:
    """List the images of VOC2007 trainval and test and of VOC2012 trainval."""
    found = Inspection(root, "VOCdevkit")
    for year, split in _SPLITS:
        found.splits[f"{year}/{split}"] = _read_split(found, root / year, split)
    return found


def _read_split(found: Inspection, folder: Path, name: str) -> Split:
    split = Split()
    ids = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not ids.is_file():
        found.problem("missing", ids, "list not found")
        return split
    images, annotations = (
        {entry.name for entry in os.scandir(folder / kind)} if (folder / kind).is_dir() else set()
        for kind in ("JPEGImages", "Annotations")
    )
    seen: set[str] = set()
    for identity in ids.read_text().split():
        if identity in seen:
            found.problem("repeated", ids, f"lists {identity} more than once")
            continue
        seen.add(identity)
        if f"{identity}.xml" not in annotations:
            found.problem(
                "missing", folder / "Annotations" / f"{identity}.xml", f"not found, but {ids.name} lists it"
            )
        if f"{identity}.jpg" not in images:
            found.problem(
                "missing", folder / "JPEGImages" / f"{identity}.jpg", f"not found, but {ids.name} lists it"
            )
            continue
        split.images += 1
        split.files.append(os.path.relpath(folder / "JPEGImages" / f"{identity}.jpg", found.root))
    return split
