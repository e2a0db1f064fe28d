"""Opening shards: the index, the table of images, and whether every file is there in its full length."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sosr_det.cache_root import cache_root
from sosr_det.data.shards.layout import INDEX, PLAN, SAMPLES, ShardsIndex, parse_index
from sosr_det.data.shards.storage import Storage
from sosr_det.data.shards.table import ShardTable, mismatch, read_open_table, read_table
from sosr_det.errors import DataError

_LOCK_SECONDS = 3600


@dataclass(frozen=True)
class OpenedShards:
    """Shards whose files are all there; their content is checked as it is read."""

    storage: Storage
    index: ShardsIndex
    table: ShardTable


def open_shards(place: str | Path, split: str) -> OpenedShards:
    """Open ``place/split``.

    Args:
        place: folder or URL that holds the splits.
        split: ``train``, ``val``, …

    Raises:
        DataError: no shards there, unfinished, of another version; a shard that is missing or cut off, by name.
    """
    storage = Storage(place).below(split)
    try:
        present = storage.sizes()
        if INDEX not in present:
            raise DataError(_nothing_there(storage, present, split))
        index = parse_index(storage.read(INDEX), storage.where(INDEX))
        _require_files(storage, index, present)
        table = _table(storage, index)
    except OSError as error:
        raise DataError(f"{storage} cannot be read: {error}. Is the disk or the store in reach?") from error
    return OpenedShards(storage, index, table)


def _nothing_there(storage: Storage, present: dict[str, int], split: str) -> str:
    if PLAN in present:
        return f"the shards in {storage} are unfinished: run the same `sosr-det data shard` again, which goes on."
    return (
        f"no shards in {storage} (there is no {INDEX}). Make them with "
        f"`sosr-det data shard DATA_ROOT --out {shown_parent(storage)} --split {split}`; data_root is the folder or "
        "URL that was given there with --out."
    )


def shown_parent(storage: Storage) -> str:
    """The folder or URL above a split's."""
    return str(storage).rstrip("/").rpartition("/")[0] or "DIR"


def _require_files(storage: Storage, index: ShardsIndex, present: dict[str, int]) -> None:
    wrong = [shard for shard in index.shards if present.get(shard.name) != shard.bytes]
    if SAMPLES not in present:
        raise DataError(
            f"{storage.where(SAMPLES)} is missing; copy it again from where the shards were made."
        )
    if not wrong:
        return
    shard = wrong[0]
    found = (
        "is missing"
        if shard.name not in present
        else f"has {present[shard.name]} bytes instead of {shard.bytes}"
    )
    more = f"; {len(wrong) - 1} other shards are incomplete, too" if len(wrong) > 1 else ""
    raise DataError(
        f"shard {storage.where(shard.name)} {found}{more}. Copy it again from where the shards were made, then run "
        f"`sosr-det data shard --out {shown_parent(storage)} --split {index.split} --verify`."
    )


def _table(storage: Storage, index: ShardsIndex) -> ShardTable:
    where = storage.where(SAMPLES)
    try:
        if storage.folder is not None:
            table = read_table(storage.folder / SAMPLES)
        else:
            table = _fetched_table(storage, index)
    except ValueError as error:
        raise DataError(
            f"{where} is damaged: {error}. Copy it again from where the shards were made."
        ) from error
    problem = mismatch(table, index)
    if problem:
        raise DataError(
            f"{where} does not go with {INDEX}: {problem}. Copy the whole folder again from where it was made."
        )
    return table


def _fetched_table(storage: Storage, index: ShardsIndex) -> ShardTable:
    """Through this user's cache, so that the processes of a machine share one copy of it."""
    try:
        folder = cache_root() / "shards"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / f"{index.digest}.idx"
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            kept = _kept_table(file, index)
            if kept is None:
                _replace(file, _content(storage))
                kept = read_table(file)
        return kept
    except DataError:
        raise
    except (OSError, RuntimeError):  # no place for a cache
        with tempfile.TemporaryFile() as out:
            out.write(_content(storage))
            out.flush()
            return read_open_table(out.fileno(), None)


def _kept_table(file: Path, index: ShardsIndex) -> ShardTable | None:
    try:
        table = read_table(file)
    except (FileNotFoundError, ValueError):
        return None
    return table if mismatch(table, index) is None else None


def _replace(file: Path, content: bytes) -> None:
    staged = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        staged.write_bytes(content)
        os.replace(staged, file)
    finally:
        staged.unlink(missing_ok=True)


def _content(storage: Storage) -> bytes:
    try:
        return storage.read(SAMPLES)
    except OSError as error:
        raise DataError(
            f"{storage.where(SAMPLES)} cannot be read: {error}. Is the store in reach?"
        ) from error
