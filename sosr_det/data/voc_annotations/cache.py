"""What was read of a folder's annotations, kept so that unchanged files need not be read again.

One file per folder of annotations, in this user's cache (see ``sosr_det/cache_root.py``) under ``voc-annotations``. A
file counts as unchanged while its device, inode, size, modification time and change time are the ones from before it
was read; the change time cannot be set back by ``touch``. As in git's index, a file that was changed within
``RACY_SECONDS`` before it was read is not kept, because it could have changed again within one tick of the file
system's clock. Files with problems are never kept.

The cache is plain arrays with checksums (``.npz``, read without pickle). Whatever is wrong with it, it is ignored with
one line in the log and made anew; where it cannot be written, everything works without. It is replaced as a whole, so
that readers and writers at the same time see one of the writers' versions. ``SOSR_ANNOTATION_CACHE=0`` turns it off.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sosr_det.cache_root import cache_root, is_private, remove_stale_parts
from sosr_det.data.voc_annotations.table import AnnotationTable

ENV_SWITCH = "SOSR_ANNOTATION_CACHE"
RACY_SECONDS = 2.0
FORMAT = 1  # change it with anything that reading an annotation gives

logger = logging.getLogger("sosr_det.data")

_READ_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")
)

_SEPARATOR = "\0"  # in no file name and in no XML


@dataclass(frozen=True, eq=False)
class CachedFolder:
    """Files that were read without problems.

    Attributes:
        rows: File name -> its number in the table.
        identities: int64 [N, 5], see :data:`sosr_det.data.voc_annotations.files.Identity`.
        table: Their annotations.
    """

    rows: Mapping[str, int]
    identities: np.ndarray
    table: AnnotationTable


def is_enabled() -> bool:
    """Whether ``$SOSR_ANNOTATION_CACHE`` leaves the cache on."""
    return os.environ.get(ENV_SWITCH, "1").strip().lower() not in ("0", "off", "no", "false")


def trusted(identities: np.ndarray, started: float) -> np.ndarray:
    """Which files were last changed long enough before reading began (seconds since the epoch); bool [N]."""
    return identities[:, 3:].max(axis=1, initial=0) <= int((started - RACY_SECONDS) * 1e9)


def load(folder: str) -> CachedFolder | None:
    """What is kept of ``folder``, or None."""
    try:
        file = _file(folder)
    except RuntimeError:  # no home folder
        return None
    try:
        # Opened here: NumPy leaves its own file open when it does not know the content. Links are not followed, and
        # a pipe is not waited for.
        with open(os.open(file, _READ_FLAGS), "rb") as stream:
            # Asked of what is open: the path may lead to another file by now.
            if not is_private(stream.fileno()):
                raise ValueError("others can write it")
            with np.load(stream, allow_pickle=False) as arrays:
                return _unpacked({name: arrays[name] for name in arrays.files}, folder)
    except FileNotFoundError:  # nothing kept yet
        return None
    except Exception as error:  # damage can make the reader of the format raise nearly anything
        logger.warning("%s: this cache of annotations is ignored and made anew: %s", file, error)
        return None


def save(folder: str, names: Sequence[str], identities: np.ndarray, table: AnnotationTable) -> None:
    """Replace what is kept of ``folder``; a failure is one line in the log, of level debug."""
    try:
        file = _file(folder)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_stale_parts(file.parent)
        staged = file.with_name(f"{file.stem}.{os.getpid()}-{secrets.token_hex(8)}.part")
        try:
            with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                np.savez(out, allow_pickle=False, **_packed(folder, names, identities, table))
            os.replace(staged, file)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:
        logger.debug("the annotations of %s are not kept in a cache: %s", folder, error)


def _file(folder: str) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return cache_root() / "voc-annotations" / f"{key}.npz"


def _packed(
    folder: str, names: Sequence[str], identities: np.ndarray, table: AnnotationTable
) -> dict[str, np.ndarray]:
    return {
        "format": np.array(FORMAT),
        "folder": _bytes([os.path.realpath(folder)]),
        "names": _bytes(names),
        "identities": identities,
        "class_names": _bytes(table.class_names),
        "sizes": table.sizes,
        "offsets": table.offsets,
        "class_index": table.class_index,
        "boxes": table.boxes,
        "difficult": table.difficult,
        "truncated": table.truncated,
        "truncated_known": table.truncated_known,
    }


def _unpacked(arrays: dict[str, np.ndarray], folder: str) -> CachedFolder:
    """The checked content.

    Raises:
        ValueError, KeyError: it is of another format or inconsistent.
    """
    if arrays["format"].tolist() != FORMAT:
        raise ValueError(f"its format is {arrays['format'].tolist()!r}, expected {FORMAT}")
    if _texts(arrays["folder"]) != [os.path.realpath(folder)]:
        raise ValueError("it belongs to another folder")
    names, class_names = _texts(arrays["names"]), _texts(arrays["class_names"])
    offsets = arrays["offsets"]
    num_images, num_objects = len(names), len(arrays["boxes"])
    expected = {
        "identities": (np.int64, (num_images, 5)),
        "sizes": (np.int64, (num_images, 2)),
        "offsets": (np.int64, (num_images + 1,)),
        "class_index": (np.int64, (num_objects,)),
        "boxes": (np.float64, (num_objects, 4)),
        **dict.fromkeys(("difficult", "truncated", "truncated_known"), (np.bool_, (num_objects,))),
    }
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {shape}")
    classes = arrays["class_index"]
    if (
        offsets[0] != 0
        or offsets[-1] != num_objects
        or (np.diff(offsets) < 0).any()
        or (classes.min(initial=0) < 0 or classes.max(initial=-1) >= len(class_names))
    ):
        raise ValueError("its indices do not fit together")
    table = AnnotationTable(
        tuple(class_names),
        **{name: arrays[name] for name in expected if name != "identities"},
    )
    rows = dict(zip(names, range(num_images), strict=True))
    if len(rows) != num_images:
        raise ValueError("a file is in it twice")
    return CachedFolder(rows, arrays["identities"], table)


def _bytes(texts: Sequence[str]) -> np.ndarray:
    # Lone surrogates stand for bytes of file names that are no UTF-8.
    joined = "".join(text + _SEPARATOR for text in texts)
    return np.frombuffer(joined.encode("utf-8", "surrogateescape"), np.uint8)


def _texts(array: np.ndarray) -> list[str]:
    return array.tobytes().decode("utf-8", "surrogateescape").split(_SEPARATOR)[:-1]
