"""``DEMO.json``: what a demo folder holds, and whether it still does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from sosr_det.data.demo import cub, imagenet, voc
from sosr_det.data.demo.kinds import KINDS
from sosr_det.data.demo.size import DemoSize
from sosr_det.errors import DataError

GENERATOR_VERSION = 1
"""Raised with every change that makes other images from the same seed and size."""

RECORD = "DEMO.json"

_CLASSES = {"imagenet": len(KINDS), "CUB_200_2011": len(cub.BIRD_CLASSES), "VOC": len(KINDS)}


@dataclass(frozen=True)
class Contents:
    """All files of a demo folder but the record.

    Attributes:
        files: their number.
        bytes: their total size.
        digest: ``sha256:`` and hex digits, see :func:`contents_of`.
    """

    files: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class DemoDataSummary:
    """What was made or found.

    Attributes:
        root: the demo folder, absolute.
        seed: the seed it was made from.
        reused: whether it was there already and nothing was written.
        images: number of images by data set and split, for example ``images["VOC2007/test"]``.
        classes: number of classes: ``imagenet`` 20, ``CUB_200_2011`` 16 (the real one has 200), ``VOC`` 20.
        files: number of files, ``DEMO.json`` not counted.
        bytes: total size of these files.
        digest: ``sha256:`` and the hex digest over all of these files' paths and contents.
    """

    root: Path
    seed: int
    reused: bool
    images: dict[str, int]
    classes: dict[str, int]
    files: int
    bytes: int
    digest: str

    @property
    def imagenet(self) -> Path:
        """The folder with ``train`` and ``val``."""
        return self.root / imagenet.FOLDER

    @property
    def cub(self) -> Path:
        """The folder with ``images.txt``."""
        return self.root / cub.FOLDER

    @property
    def voc_devkit(self) -> Path:
        """The folder with ``VOC2007`` and ``VOC2012``."""
        return self.root / voc.FOLDER


def summarise(root: Path, seed: int, size: DemoSize, contents: Contents, *, reused: bool) -> DemoDataSummary:
    """Put together the summary of a demo folder."""
    return DemoDataSummary(
        root=root,
        seed=seed,
        reused=reused,
        images=image_counts(size),
        classes=dict(_CLASSES),
        **asdict(contents),
    )


def image_counts(size: DemoSize) -> dict[str, int]:
    """Return the number of images by data set and split."""
    kinds, birds = len(KINDS), len(cub.BIRD_CLASSES)
    return {
        "imagenet/train": kinds * size.imagenet_train_per_class,
        "imagenet/val": kinds * size.imagenet_val_per_class,
        "CUB_200_2011/train": birds * size.cub_train_per_class,
        "CUB_200_2011/test": birds * size.cub_test_per_class,
        "VOC2007/trainval": size.voc2007_trainval,
        "VOC2007/test": size.voc2007_test,
        "VOC2012/trainval": size.voc2012_trainval,
    }


def contents_of(files: dict[str, tuple[int, str]]) -> Contents:
    """Sum up files given as path -> (bytes, hex sha256).

    The digest is the sha256 over one line for each file, in the order of the paths: path, NUL, the file's sha256.
    """
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\0{files[path][1]}\n".encode())
    return Contents(len(files), sum(length for length, _ in files.values()), f"sha256:{total.hexdigest()}")


def write_record(root: Path, seed: int, size: DemoSize, contents: Contents) -> None:
    """Write ``DEMO.json`` into ``root``. It holds no time and no path: the same data has the same record."""
    record = {
        **_parameters(seed, size),
        "images": image_counts(size),
        "classes": _CLASSES,
        **asdict(contents),
        "made_with": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    (root / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def reuse(root: Path, seed: int, size: DemoSize) -> DemoDataSummary:
    """Return the summary of a folder that exists, if it holds what was asked for; nothing is changed.

    Raises:
        DataError: it is no demo data, was made with another seed, size or generator, or was changed since.
        OSError: it cannot be read.
    """
    record = _read_record(root)
    for key, wanted in _parameters(seed, size).items():
        found = record.get(key)
        if found == wanted:
            continue
        if isinstance(found, dict) and isinstance(wanted, dict):  # sizes: name only those that differ
            names = sorted(
                name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
            )
            found, wanted = ({name: side.get(name) for name in names} for side in (found, wanted))
        raise DataError(
            f"{root} holds demo data with {key} {found!r}, but {wanted!r} was asked for. "
            "Choose another --out folder, ask for what is there, or delete that folder first."
        )
    files = {}
    for file in root.rglob("*"):
        if file.is_file() and file != root / RECORD:
            content = file.read_bytes()
            files[file.relative_to(root).as_posix()] = len(content), hashlib.sha256(content).hexdigest()
    contents = contents_of(files)
    if contents.digest != record.get("digest"):
        raise DataError(
            f"The demo data in {root} was changed after it was made: its digest is not the one in {RECORD} "
            f"({contents.files} files found, {record.get('files')} made). "
            "Delete that folder and run the command again, or choose another --out folder."
        )
    return summarise(root, seed, size, contents, reused=True)


def _parameters(seed: int, size: DemoSize) -> dict[str, object]:
    return {
        "format": "sosr-det demo data",
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "size": asdict(size),
    }


def _read_record(root: Path) -> dict[str, object]:
    advice = "Nothing was changed; choose an --out folder that is empty or does not exist yet."
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder. {advice}")
    file = root / RECORD
    if not file.is_file():
        names = sorted(entry.name for entry in root.iterdir())
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(f"{root} is no demo data: it has no {RECORD}, but holds {shown}. {advice}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} cannot be read as JSON ({error}). {advice}") from error
    if not isinstance(record, dict):
        raise DataError(f"{file} is no demo data record: it holds no JSON object. {advice}")
    return record
