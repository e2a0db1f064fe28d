"""Writes the whole demo tree, or finds that it is there already."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sosr_det.data.demo import cub, imagenet, voc
from sosr_det.data.demo.record import (
    RECORD,
    Contents,
    DemoDataSummary,
    contents_of,
    image_counts,
    reuse,
    summarise,
    write_record,
)
from sosr_det.data.demo.size import DemoSize
from sosr_det.errors import DataError

_IMAGE_SUFFIXES = (".jpg", ".JPEG")
# What an image and its annotation take on disk, by the measured mean content rounded up to 4 KiB blocks.
_BYTES_PER_IMAGE = {"imagenet": 8192, "CUB_200_2011": 12288, "VOC2007": 24576, "VOC2012": 24576}


def generate_demo_data(
    out: Path | str,
    *,
    seed: int = 0,
    size: DemoSize | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DemoDataSummary:
    """Draw the demo data under ``out``, or reuse it if it is there unchanged.

    The same seed and size, with the same NumPy and OpenCV, give the same bytes. The tree is built in a hidden folder
    beside ``out`` (``.NAME.*.partial``) and renamed at the end, so that an interrupted call leaves nothing under
    ``out``; only a killed process or a crashed machine leaves the hidden folder, which may be deleted.

    Args:
        out: the folder to make; it may exist if it is empty or holds the same demo data.
        seed: 0 or more.
        size: how many images; None means the defaults of :class:`DemoSize`.
        progress: called with the number of images written and the number of all images, after each image.

    Raises:
        ValueError: ``seed`` is negative or not an integer.
        DataError: ``out`` holds something else or was changed, the disk is too full, or it cannot be written to.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    size = size or DemoSize()
    root = Path(os.path.realpath(out))  # not Path.resolve, which fails on a circular link before Python 3.13
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            return reuse(root, seed, size)
        if root.exists() and Path.cwd().is_relative_to(root):
            # Renaming over it would work, and leave the user's shell in a folder that is gone.
            raise DataError(
                f"{root} is the folder you are in, and would be replaced by a new one. "
                f"Name a folder inside it instead, for example {root / 'demo'}."
            )
        root.parent.mkdir(parents=True, exist_ok=True)
        _check_space(root.parent, size)
        return _build(root, seed, size, progress)
    except OSError as error:
        raise DataError(
            f"Cannot make the demo data in {root}: {error}. Nothing was left there; "
            "choose an --out folder that you can write to, on a disk with room, and not itself a mount point."
        ) from error


def _build(
    root: Path, seed: int, size: DemoSize, progress: Callable[[int, int], None] | None
) -> DemoDataSummary:
    with tempfile.TemporaryDirectory(
        prefix=f".{root.name}.", suffix=".partial", dir=root.parent
    ) as temporary:
        # One level further in, because the temporary folder itself is closed to other users, whatever the umask.
        tree = Path(temporary) / "tree"
        tree.mkdir()
        contents = _write(tree, seed, size, progress)
        write_record(tree, seed, size, contents)
        try:
            tree.rename(root)
        except OSError:
            # Another process may have finished the same data first: as good as ours, if it is the same.
            if not (root / RECORD).exists():
                raise
            return reuse(root, seed, size)
    return summarise(root, seed, size, contents, reused=False)


def _write(tree: Path, seed: int, size: DemoSize, progress: Callable[[int, int], None] | None) -> Contents:
    total, done = sum(image_counts(size).values()), 0
    files: dict[str, tuple[int, str]] = {}
    for path, content in _all_files(seed, size):
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        files[path] = len(content), hashlib.sha256(content).hexdigest()
        if path.endswith(_IMAGE_SUFFIXES):
            done += 1
            if progress is not None:
                progress(done, total)
    return contents_of(files)


def _all_files(seed: int, size: DemoSize) -> Iterator[tuple[str, bytes]]:
    yield from imagenet.imagenet_files(
        seed, train_per_class=size.imagenet_train_per_class, val_per_class=size.imagenet_val_per_class
    )
    yield from cub.cub_files(
        seed, train_per_class=size.cub_train_per_class, test_per_class=size.cub_test_per_class
    )
    yield from voc.voc_files(
        seed,
        voc2007_trainval=size.voc2007_trainval,
        voc2007_test=size.voc2007_test,
        voc2012_trainval=size.voc2012_trainval,
    )


def _check_space(folder: Path, size: DemoSize) -> None:
    needed = sum(count * _BYTES_PER_IMAGE[name.split("/")[0]] for name, count in image_counts(size).items())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"The demo data needs about {needed / 1e6:.0f} MB, but {folder} has only {free / 1e6:.0f} MB free. "
            "Make room, ask for fewer images, or choose an --out folder on another disk."
        )
