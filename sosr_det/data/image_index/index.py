"""The list of a data set's images and labels as flat arrays, which processes share without copying."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.errors import DataError

_WIDE = 2**32  # bytes of paths from which offsets need eight bytes each


def _encoded(path: str) -> bytes:
    # Lone surrogates stand for bytes of file names that are no UTF-8.
    return path.encode("utf-8", "surrogateescape")


class ImageIndex:
    """Paths and labels of ``N`` images in the order of the data set.

    Python's list of as many strings would be copied into every worker process bit by bit, as reading a string changes
    its reference count. These arrays hold no Python objects, and those that come from a file are the file's pages.

    Args:
        classes: class names by label.
        path_bytes: uint8 ``[total]``, all relative paths one after the other (UTF-8, ``/`` between folders).
        offsets: uint32 or uint64 ``[N + 1]``, where each path begins; the last is ``total``.
        labels: int32 ``[N]``, each in ``[0, len(classes))``.
        digest: see :meth:`fingerprint`, if it is known.
        source: ``(reader, file)`` where the arrays are a file's: another process opens that file instead of getting
            a copy of them.
    """

    def __init__(
        self,
        classes: Sequence[str],
        path_bytes: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray,
        digest: str | None = None,
        source: tuple[Any, Path] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.path_bytes = path_bytes
        self.offsets = offsets
        self.labels = labels
        self._digest = digest
        self.source = source

    @classmethod
    def from_samples(cls, samples: Iterable[tuple[str, int]], classes: Sequence[str]) -> ImageIndex:
        """From ``(relative path, label)`` pairs in the order of the data set; the pairs are read once."""
        chunks, lengths, labels = bytearray(), [], []
        for path, label in samples:
            encoded = _encoded(path)
            chunks += encoded
            lengths.append(len(encoded))
            labels.append(label)
        offsets = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=offsets[1:])
        width = np.uint32 if len(chunks) < _WIDE else np.uint64
        return cls(
            classes,
            np.frombuffer(bytes(chunks), np.uint8),
            offsets.astype(width),
            np.array(labels, np.int32).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Relative path of image ``index``, ``-len(self)`` to ``len(self) - 1``.

        Raises:
            IndexError: no such image.
        """
        count = len(self.labels)
        if not -count <= index < count:
            raise IndexError(f"image {index} of {count}")
        index %= count
        return self.path_bytes[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes().decode(
            "utf-8", "surrogateescape"
        )  # fmt: skip

    def encoded_paths(self) -> Iterator[bytes]:
        """All paths as UTF-8, in order."""
        joined, offsets = self.path_bytes.tobytes(), self.offsets.tolist()
        for begin, end in itertools.pairwise(offsets):
            yield joined[begin:end]

    def fingerprint(self) -> str:
        """sha256 over the class list and the sorted ``relative path <tab> label`` lines; in hexadecimal."""
        if self._digest is None:
            labels = [b"\t%d" % label for label in range(len(self.classes))]
            lines = sorted(
                path + labels[label]
                for path, label in zip(self.encoded_paths(), self.labels.tolist(), strict=True)
            )
            names = [_encoded(name) for name in self.classes]
            self._digest = hashlib.sha256(b"\n".join([*names, b"", *lines])).hexdigest()
        return self._digest

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.path_bytes.nbytes + self.offsets.nbytes + self.labels.nbytes

    def __reduce__(self) -> tuple:
        # A spawned worker maps the file; a copy of the arrays would go through a pipe and be its own memory.
        if self.source is not None:
            read, file = self.source
            return _reopened, (read, file, self._digest)
        parts = (self.classes, self.path_bytes, self.offsets, self.labels, self._digest)
        return type(self), parts


def _reopened(read: Any, file: Path, digest: str | None) -> ImageIndex:
    try:
        index = read(file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}, the image index that this run began with, cannot be read any more ({error}). Start the run "
            "again; do not clear the cache while one is going on."
        ) from error
    if index.fingerprint() != digest:
        raise DataError(
            f"{file} was replaced by an index of other images while a run was using it: was the data set changed? "
            "Start the run again."
        )
    return index
