"""Reading every byte of the shards again: checksums, archive members, labels."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from sosr_det.data.shards.opening import open_shards
from sosr_det.data.shards.storage import Storage
from sosr_det.errors import DataError


def verify_shards(
    place: str, split: str, progress: Callable[[str, int, int | None], None] = lambda *_: None
) -> tuple[int, int]:
    """Check every shard of ``place/split`` against ``index.json`` and ``samples.idx``.

    Returns:
        Number of shards and of images.

    Raises:
        DataError: which shards are damaged and how, and what to do.
    """
    opened = open_shards(place, split)
    total = sum(shard.bytes for shard in opened.index.shards)
    done, problems = 0, []
    for number, shard in enumerate(opened.index.shards):
        progress("verifying", done, total)
        rows = np.flatnonzero(opened.table.shard == number)
        problem = _problem(opened.storage, shard, opened.table, rows)
        if problem:
            problems.append(f"{shard.name}: {problem}")
        done += shard.bytes
    progress("verifying", total, total)
    if problems:
        first = "\n".join(problems[:10]) + ("\n…" if len(problems) > 10 else "")
        raise DataError(
            f"{len(problems)} of {len(opened.index.shards)} shards in {opened.storage} are damaged:\n{first}\n"
            "Copy these files again from where they were made, or remove the folder and write it anew."
        )
    return len(opened.index.shards), len(opened.table)


class _Counted:
    """A stream that is hashed while the archive is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        self.bytes += len(data)
        return data


def _problem(storage: Storage, shard: Any, table: Any, rows: np.ndarray) -> str | None:
    expected = {f"{row:08d}": row for row in rows.tolist()}
    wrong = None
    try:
        with storage.open(shard.name) as stream:
            counted = _Counted(stream)
            try:
                wrong = _archive_problem(counted, table, expected)
            except tarfile.TarError as error:
                wrong = f"it is no archive ({error})"
            while counted.read(2**20):
                pass
    except OSError as error:
        return f"cannot be read ({error})"
    if counted.bytes != shard.bytes:
        return f"it has {counted.bytes} bytes instead of {shard.bytes}"
    if counted.hash.hexdigest() != shard.sha256:
        return f"its sha256 is {counted.hash.hexdigest()} instead of {shard.sha256}"
    return wrong


def _archive_problem(stream: Any, table: Any, expected: dict[str, int]) -> str | None:
    images, labels = 0, 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            key, _, kind = member.name.partition(".")
            if key not in expected:
                return f"{member.name} is not in samples.idx"
            row = expected[key]
            data = archive.extractfile(member).read()
            if kind == "cls":
                labels += 1
                if data != str(int(table.labels[row])).encode():
                    return f"the label in {member.name} is not the one in samples.idx"
            else:
                images += 1
                place = (int(table.begin[row]), int(table.size[row]), int(table.crc32[row]))
                if (member.offset_data, member.size, zlib.crc32(data)) != place:
                    return f"{member.name} does not lie where samples.idx says, or is another image"
    if (images, labels) != (len(expected), len(expected)):
        return f"it holds {images} images and {labels} labels instead of {len(expected)} each"
    return None
