"""One index for each data set root and split, built once and kept in the cache.

The file lies in this user's cache (see ``sosr_det/cache_root.py``) under ``image-index``. It is used as long as no
folder that it was read from has changed (see :class:`~sosr_det.data.image_index.stamps.Stamps`), which costs one
``stat`` for each folder. Content that changes under an unchanged name is no matter of an index. As in git's index, a
list is not kept where a folder was changed within two seconds before it was read: another change could then have the
same time. Whatever is wrong with the file, it is built anew, and the log says why; where it cannot be written,
everything works without. ``SOSR_IMAGE_INDEX=0`` turns the cache off.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from mmengine.logging import print_log

from sosr_det.cache_root import cache_root, is_private, remove_stale_parts
from sosr_det.data.image_index.array_file import read_arrays, write_arrays
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.data.image_index.scan import Scan, scan_split
from sosr_det.data.image_index.stamps import Stamps, take_stamps

ENV_SWITCH = "SOSR_IMAGE_INDEX"
FORMAT = 1  # change it with anything that changes which images are found, or their order
_WAIT_SECONDS = 1800.0  # for another process that builds the same index
_WORTH_A_LINE = 10_000  # images

_READ_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")
)


@dataclass(frozen=True)
class OpenedIndex:
    """An index and where it came from.

    Attributes:
        index: the images.
        layout: see :class:`~sosr_det.data.image_index.scan.Scan`.
        file: the file in the cache; None if it is in this process's memory alone.
        num_folders: how many folders and lists it depends on.
        built_because: why it was built; None if it was only opened.
        seconds: it took.
    """

    index: ImageIndex
    layout: str
    file: Path | None
    num_folders: int
    built_because: str | None
    seconds: float


def open_image_index(root: Path, split: str, *, rebuild: bool = False) -> OpenedIndex:
    """The index of a split in ImageNet's layout: from the cache, or built and kept there.

    Processes that need the same index at once wait for the one that builds it.

    Raises:
        DataError: see :func:`~sosr_det.data.image_index.scan.scan_split`.
    """
    started = time.monotonic()
    file = _file(root, split)
    if file is None:
        return _build(root, split, None, f"${ENV_SWITCH} is off or there is no home folder", started)
    reason = "it was asked for"
    if not rebuild:
        kept = _load(root, file, started)
        if isinstance(kept, OpenedIndex):
            return kept
        reason = kept
    with _lock(file):
        if not rebuild:  # whoever had the lock before has built it
            kept = _load(root, file, started)
            if isinstance(kept, OpenedIndex):
                return kept
        return _build(root, split, file, reason, started)


def read_index_file(file: Path) -> ImageIndex:
    """The images in a file of the cache, whether or not they are still there.

    Raises:
        ValueError: not a file that this user alone can write, damaged, or of another version.
        OSError: it cannot be opened.
    """
    return _read(file)[0]


def _read(file: Path) -> tuple[ImageIndex, Stamps, str]:
    descriptor = os.open(file, _READ_FLAGS)
    try:
        # Asked of what is open: the path may lead to another file by now.
        if not is_private(descriptor):
            raise ValueError("others can write it")
        arrays, about = read_arrays(descriptor)
    finally:
        os.close(descriptor)
    if about.get("format") != FORMAT:
        raise ValueError(f"its format is {about.get('format')!r}, expected {FORMAT}")
    offsets, labels = arrays["offsets"], arrays["labels"]
    index = ImageIndex(
        about["classes"],
        arrays["path_bytes"],
        offsets,
        labels,
        digest=about["fingerprint"],
        source=(read_index_file, file),
    )
    fits = (
        len(offsets) == len(labels) + 1
        and offsets[0] == 0
        and offsets[-1] == len(index.path_bytes)
        and bool((offsets[1:] >= offsets[:-1]).all())
        and labels.min(initial=0) >= 0
        and labels.max(initial=0) < len(index.classes)
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    places = arrays["places"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    return index, Stamps(places, arrays["stamps"].reshape(len(places), 3)), about["layout"]


def _load(root: Path, file: Path, started: float) -> OpenedIndex | str:
    """What is kept, or why it cannot be used."""
    try:
        index, stamps, layout = _read(file)
    except FileNotFoundError:
        return "there was none"
    except Exception as error:  # damage can make anything of JSON and arrays
        return f"{file} cannot be used ({error})"
    changed = stamps.difference(root)
    if changed:
        return changed
    return OpenedIndex(index, layout, file, len(stamps.places), None, time.monotonic() - started)


def _build(root: Path, split: str, file: Path | None, reason: str, started: float) -> OpenedIndex:
    began = time.time()
    scan = scan_split(root, split)
    scan.index.fingerprint()  # kept with it: sorting 1.28 M lines takes seconds
    stamps = take_stamps(root, scan.places)
    index, not_kept = scan.index, None
    if file is not None:
        if stamps.too_new(began):
            not_kept = "a folder was changed less than two seconds ago"
        else:
            try:
                _save(file, scan, stamps)
                index = read_index_file(file)  # the mapped file instead of memory of our own
            except (OSError, ValueError) as error:
                not_kept = str(error)
    seconds = time.monotonic() - started
    if len(index) >= _WORTH_A_LINE or not reason.startswith("there was none"):
        kept = f"; not kept, as {not_kept}" if not_kept else ""
        print_log(
            f"image index of {root / split} built in {seconds:.1f} s ({len(index)} images), because {reason}{kept}",
            logger="current",
            level=logging.INFO,
        )
    return OpenedIndex(
        index, scan.layout, file if index.source is not None else None, len(scan.places), reason, seconds
    )


def _save(file: Path, scan: Scan, stamps: Stamps) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_stale_parts(file.parent)
    places = "\0".join(scan.places).encode("utf-8", "surrogateescape")
    arrays = {
        "path_bytes": scan.index.path_bytes,
        "offsets": scan.index.offsets,
        "labels": scan.index.labels,
        "places": np.frombuffer(places, np.uint8),
        "stamps": stamps.values.reshape(-1),
    }
    about = {
        "format": FORMAT,
        "layout": scan.layout,
        "classes": list(scan.index.classes),
        "fingerprint": scan.index.fingerprint(),
    }
    write_arrays(file, arrays, about)


def _file(root: Path, split: str) -> Path | None:
    if os.environ.get(ENV_SWITCH, "1").strip().lower() in ("0", "off", "no", "false"):
        return None
    key = hashlib.sha256(os.fsencode(os.path.realpath(root)) + b"\0" + split.encode()).hexdigest()
    try:
        return cache_root() / "image-index" / f"{key}.idx"
    except RuntimeError:  # no home folder
        return None


@contextmanager
def _lock(file: Path):
    """One builder at a time, where the file system can do that; elsewhere each builds, and one file is kept."""
    lock = FileLock(file.with_suffix(".lock"), timeout=_WAIT_SECONDS)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, Timeout, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
