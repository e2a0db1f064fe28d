"""Reading ``VOCdevkit/VOC20XX``: its lists, with each listed image and annotation. No image and no XML is opened."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sosr_det.data.prepare.inspection import Inspection, Split
from sosr_det.data.prepare.voc.lists import compare_lists, is_class_list, read_list
from sosr_det.errors import DataError

OFFICIAL = {"VOC2007": ("trainval", "test"), "VOC2012": ("trainval",)}
"""The lists of detection that are trained on and tested with, by folder."""

_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class ListedImage:
    """One line of a list.

    Attributes:
        identity: the image's id.
        image: its file relative to the data set's folder, or None if it is not there.
        annotation: its XML file, in the same way.
    """

    identity: str
    image: str | None
    annotation: str | None


@dataclass
class Devkit:
    """Folders in VOC's layout as found.

    Attributes:
        found: splits with their files, and what is wrong with the lists.
        listed: the lists' images by split; splits are named like ``VOC2007/trainval``.
        notes: what is worth knowing.
    """

    found: Inspection
    listed: dict[str, list[ListedImage]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_voc(root: Path) -> Inspection:
    """List the images of VOC2007 trainval and test and of VOC2012 trainval."""
    return read_official(root).found


def read_official(root: Path) -> Devkit:
    """Read the lists that detection uses; ``train`` and ``val``, if they are there, are compared with them."""
    devkit = Devkit(Inspection(root, "VOCdevkit"))
    for name, splits in OFFICIAL.items():
        main = root / name / "ImageSets" / "Main"
        others = [split for split in ("train", "val") if (main / f"{split}.txt").is_file()]
        _read_folder(devkit, root / name, splits, others)
    return devkit


def read_any(root: Path) -> Devkit:
    """Read all plain lists of any folders in VOC's layout.

    Args:
        root: a folder with ``ImageSets/Main`` and ``Annotations``, one that holds such folders, or one with a
            ``VOCdevkit`` of either kind in it.

    Raises:
        DataError: there is no such folder, or there are no lists in it.
    """
    root, folders = _format_folders(root)
    devkit = Devkit(Inspection(root, "VOC format"))
    for folder in folders:
        lists = sorted(
            path for path in (folder / "ImageSets" / "Main").glob("*.txt") if not is_class_list(path)
        )
        if not lists:
            main = folder / "ImageSets" / "Main"
            devkit.found.problem("missing", main, f"no image lists in it. {_how_to_list(folder)}")
        _read_folder(devkit, folder, [path.stem for path in lists], ())
    return devkit


def _format_folders(root: Path) -> tuple[Path, list[Path]]:
    """The data set's folder, and those in VOC's layout: itself, or the ones in it."""
    for candidate in (root, root / "VOCdevkit"):
        if (candidate / "ImageSets" / "Main").is_dir():
            return candidate, [candidate]
        if candidate.is_dir():
            folders = sorted(
                child for child in candidate.iterdir() if (child / "ImageSets" / "Main").is_dir()
            )
            if folders:
                return candidate, folders
    bare = root if (root / "Annotations").is_dir() else None
    hint = _how_to_list(bare) if bare else "Name the folder that holds it, or one that holds such folders."
    raise DataError(
        f"no data set in VOC format in {root}: expected ImageSets/Main/<split>.txt, Annotations/<id>.xml and "
        f"JPEGImages/<id>.jpg in it or in a folder of it. {hint}"
    )


def _how_to_list(folder: Path) -> str:
    example = shlex.quote(str(folder / "ImageSets" / "Main" / "trainval.txt"))
    return f"Write lists of image ids, one a line, such as {example}; what is not listed is not used"


class _Files:
    """The names in one folder, with what is asked of them for a missing one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there = folder.is_dir()
        self.names = {entry.name for entry in os.scandir(folder)} if self.there else set()
        self._by_lower = {name.lower(): name for name in self.names}
        self._reported: set[str] = set()  # a file that two lists name is missing once

    def path_of(self, found: Inspection, identity: str, suffix: str, split: str) -> str | None:
        """The file's path relative to the data set; None, and a problem, if it is not there."""
        name = identity + suffix
        path = self.folder / name
        if name in self.names or ("/" in name and path.is_file()):  # `names` are those of the folder alone
            return os.path.relpath(path, found.root)
        if self.there and name not in self._reported:
            self._reported.add(name)
            found.problem(
                "missing", path, f"not found, but {split}.txt lists it{self._hint(identity, suffix)}"
            )
        return None

    def _hint(self, identity: str, suffix: str) -> str:
        columns = identity.split()
        if len(columns) == 2 and columns[0] + suffix in self.names:
            return "; the line has a second column, as VOC's lists of a class have: use the plain list"
        if identity in self.names or os.path.splitext(identity)[0] + suffix in self.names:
            return "; list ids without the file's ending"
        near = [self._by_lower.get((identity + suffix).lower())]
        if suffix != ".xml":
            near += [identity + other for other in _SUFFIXES if identity + other in self.names]
        return next((f"; there is a {name}" for name in near if name), "")


def _read_folder(devkit: Devkit, folder: Path, splits: Sequence[str], others: Sequence[str]) -> None:
    """Read one ``VOC20XX``; ``others`` are lists that are compared with the splits, but are none themselves."""
    found, main = devkit.found, folder / "ImageSets" / "Main"
    lists = {name: read_list(found, main / f"{name}.txt") for name in [*splits, *others]}
    compare_lists(found, main, lists)
    relative = os.path.relpath(folder, found.root)
    ids = {identity for listed in lists.values() for identity in listed}
    images, annotations = _Files(folder / "JPEGImages"), _Files(folder / "Annotations")
    for files in (images, annotations):
        if ids and not files.there:
            found.problem("missing", files.folder, f"folder not found; {len(ids):,} files in it are listed")
    suffix = _image_suffix(ids, images.names)
    if suffix != ".jpg":
        devkit.notes.append(f"{relative}: images end in {suffix}; to train on them, set img_suffix='auto'")
    for split in splits:
        key = split if folder == found.root else f"{relative}/{split}"
        devkit.listed[key] = listed = [
            ListedImage(
                identity,
                images.path_of(found, identity, suffix, split),
                annotations.path_of(found, identity, ".xml", split),
            )
            for identity in lists[split]
        ]
        there = [entry.image for entry in listed if entry.image is not None]
        found.splits[key] = Split(images=len(there), files=there)
    # VOC2012 has 5,585 annotations of images for segmentation and actions alone.
    unlisted = sum(name.endswith(".xml") and name[:-4] not in ids for name in annotations.names)
    if unlisted:
        devkit.notes.append(
            f"{relative}: {unlisted:,} annotations are in none of the lists; they are not used"
        )


def _image_suffix(ids: set[str], images: set[str]) -> str:
    """The ending of most listed images; ``.jpg`` unless another has more."""
    counts = {suffix: sum(identity + suffix in images for identity in ids) for suffix in _SUFFIXES}
    return max(_SUFFIXES, key=lambda suffix: counts[suffix])
