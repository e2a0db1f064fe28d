"""``samples.idx``: where each image lies in the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sosr_det.data.image_index.array_file import read_arrays, write_arrays
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.data.shards.layout import ShardsIndex

_PLACES = {"shard": np.int32, "begin": np.uint64, "size": np.uint32, "crc32": np.uint32}


class ShardTable(ImageIndex):
    """The images of a data set in its own order, and their places.

    Attributes:
        shard: int32 ``[N]``, number of the tar file.
        begin: uint64 ``[N]``, first byte of the image in it.
        size: uint32 ``[N]``, its length in bytes.
        crc32: uint32 ``[N]``, its checksum.
        digest: of the :class:`~sosr_det.data.shards.layout.ShardsIndex` that this belongs to.
    """

    shard: np.ndarray
    begin: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    digest: str

    @classmethod
    def join(cls, index: ImageIndex, places: dict[str, np.ndarray], digest: str) -> ShardTable:
        """An index with places."""
        table = cls(
            index.classes, index.path_bytes, index.offsets, index.labels, index.fingerprint(), index.source
        )
        for name, kind in _PLACES.items():
            setattr(table, name, np.asarray(places[name], kind))
        table.digest = digest
        return table

    def __reduce__(self) -> tuple:
        if self.source is not None:
            return super().__reduce__()
        plain = ImageIndex(self.classes, self.path_bytes, self.offsets, self.labels, self.fingerprint())
        return ShardTable.join, (plain, {name: getattr(self, name) for name in _PLACES}, self.digest)


def write_table(file: Path, table: ShardTable) -> None:
    """Write ``samples.idx``.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {"path_bytes": table.path_bytes, "offsets": table.offsets, "labels": table.labels}
    arrays |= {name: getattr(table, name) for name in _PLACES}
    about = {"classes": list(table.classes), "fingerprint": table.fingerprint(), "digest": table.digest}
    write_arrays(file, arrays, about, mode=0o666)


def read_table(file: Path) -> ShardTable:
    """Map ``samples.idx``.

    Raises:
        ValueError: damaged.
        OSError: it cannot be read.
    """
    with open(file, "rb") as stream:
        return read_open_table(stream.fileno(), file)


def read_open_table(descriptor: int, file: Path | None) -> ShardTable:
    """The same of a file that is open; ``file`` is where other processes find it, if they can.

    Raises:
        ValueError: damaged.
    """
    arrays, about = read_arrays(descriptor)
    try:
        source = (read_table, file) if file is not None else None
        parts = (arrays.pop(name) for name in ("path_bytes", "offsets", "labels"))
        index = ImageIndex(about["classes"], *parts, digest=about["fingerprint"], source=source)
        return ShardTable.join(index, arrays, about["digest"])
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error


def mismatch(table: ShardTable, index: ShardsIndex) -> str | None:
    """Why a table cannot belong to ``index.json``, or None."""
    if table.digest != index.digest:
        return "it belongs to shards that were written another time"
    count = len(table)
    if any(len(getattr(table, name)) != count for name in _PLACES) or len(table.offsets) != count + 1:
        return "its columns have different lengths"
    if count != index.num_samples:
        return f"it has {count} images instead of {index.num_samples}"
    if not 0 <= table.shard.min(initial=0) <= table.shard.max(initial=0) < len(index.shards):
        return "it names shards that there are not"
    sizes = np.array([shard.bytes for shard in index.shards], np.uint64)
    room = sizes[table.shard]
    # Not `begin + size`, which may be small again in 64 bits.
    if ((table.begin > room) | (table.size.astype(np.uint64) > room - table.begin)).any():
        return "it names places beyond the end of a shard"
    if (
        table.offsets[0]
        or table.offsets[-1] != len(table.path_bytes)
        or (np.diff(table.offsets.astype(np.int64)) < 0).any()
    ):
        return "its paths do not lie one after the other"
    if not 0 <= table.labels.min(initial=0) <= table.labels.max(initial=0) < len(index.classes):
        return "it has labels that there are not"
    return None
