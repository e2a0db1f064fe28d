"""Writing a data set as shards: whole files only, and an interrupted writing goes on where it stopped."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from filelock import FileLock, Timeout

from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.image_dataset import ClassificationDataset
from sosr_det.data.shards.layout import INDEX, PLAN, SAMPLES, VERSION, Shard, ShardsIndex, parse_index
from sosr_det.data.shards.storage import Storage
from sosr_det.data.shards.table import ShardTable, write_table
from sosr_det.data.shards.tar import END_BYTES, ShardWriter, sample_bytes
from sosr_det.errors import ConfigError, DataError

_READ_AHEAD = 64  # files that are being read while one is written
_READERS = 8
SMALLEST_SHARD_BYTES = 10_000

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Written:
    """What :func:`write_shards` did.

    Attributes:
        index: the content of ``index.json``.
        place: folder or URL of the split.
        kept: shards that were there from an earlier, interrupted writing.
        already_there: everything was.
    """

    index: ShardsIndex
    place: str
    kept: int
    already_there: bool


def write_shards(
    dataset: ClassificationDataset,
    out: str | Path,
    split: str,
    shard_bytes: int,
    shuffle_seed: int | None = None,
    progress: Progress = lambda activity, done, total: None,
) -> Written:
    """Write the files of ``dataset`` to ``out/split`` as they are; nothing is decoded.

    Args:
        dataset: whose images are files.
        out: folder or URL.
        split: name of the folder in it.
        shard_bytes: no tar file is larger, unless one image alone is; at least 10 kB.
        shuffle_seed: store the images in a random order, so that neighbours in a shard are of different classes. The
            order of the data set that is read from the shards stays the same.
        progress: called with what is done, how many images, and of how many.

    Raises:
        DataError: another data set is there, an image cannot be read, another process is writing.
        ConfigError: too small a size.
        OSError: the disk is full, the store cannot be reached, … Running again goes on.
    """
    if shard_bytes < SMALLEST_SHARD_BYTES:
        raise ConfigError(f"a shard must hold at least {SMALLEST_SHARD_BYTES} bytes, got {shard_bytes}")
    storage = Storage(out).below(split)
    plan = {
        "version": VERSION,
        "fingerprint": dataset.fingerprint(),
        "shard_bytes": shard_bytes,
        "shuffle_seed": shuffle_seed,
    }
    present = storage.sizes()
    if INDEX in present:
        return _already_there(storage, plan)
    storage.make()
    lock = FileLock(storage.folder / ".lock", timeout=0) if storage.folder is not None else None
    try:
        if lock is not None:
            lock.acquire()
    except Timeout as error:
        raise DataError(f"another process is writing shards to {storage}; wait for it or stop it.") from error
    try:
        _require_plan(storage, plan, present)
        return _write(dataset, storage, split, plan, progress)
    finally:
        if lock is not None:
            lock.release()


def _already_there(storage: Storage, plan: dict) -> Written:
    index = parse_index(storage.read(INDEX), storage.where(INDEX))
    there = {name: getattr(index, name) for name in plan if name != "version"}
    different = [name for name, value in there.items() if value != plan[name]]
    if different:
        raise DataError(
            f"{storage} already holds shards, but with another {' and '.join(different)}. Choose another folder, or "
            "remove this one first."
        )
    return Written(index, str(storage), len(index.shards), True)


def _require_plan(storage: Storage, plan: dict, present: dict[str, int]) -> None:
    if PLAN in present:
        try:
            found = json.loads(storage.read(PLAN))
        except ValueError:
            found = None
        if found != plan:
            raise DataError(
                f"{storage} holds an unfinished writing of other data or with other options ({found}, now {plan}). "
                "Choose another folder, or remove this one first."
            )
        return
    others = [name for name in present if not name.startswith(".")]
    if others:
        raise DataError(f"{storage} is not empty (it holds {min(others)}). Choose another folder.")
    storage.write(PLAN, json.dumps(plan).encode())


def _write(
    dataset: ClassificationDataset, storage: Storage, split: str, plan: dict, progress: Progress
) -> Written:
    count, seed = len(dataset), plan["shuffle_seed"]
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    places = {name: np.zeros(count, np.int64) for name in ("shard", "begin", "size", "crc32")}
    shards: list[Shard] = []
    done = 0
    for record in _finished(storage):
        done = _place(places, order, done, len(shards), record)
        shards.append(_shard(record))
    kept = len(shards)
    with tempfile.TemporaryDirectory(prefix="sosr-shards-") as temporary:
        folder = storage.folder or Path(temporary)
        images = _read_ahead(dataset, order[done:])
        pending = None
        while done < count:
            progress("writing", done, count)
            name = f"{len(shards):06d}.tar"
            staged = folder / f"{name}.part"  # of an earlier process that was killed, it is overwritten
            try:
                writer, pending, sha256 = _write_shard(staged, dataset, images, pending, plan["shard_bytes"])
                storage.put(staged, name)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            record = {"name": name, "bytes": writer.bytes, "sha256": sha256, "samples": len(writer.sizes)}
            record |= {"begin": writer.begins, "size": writer.sizes, "crc32": writer.checksums}
            storage.write(f"{name}.json", json.dumps(record).encode())
            done = _place(places, order, done, len(shards), record)
            shards.append(_shard(record))
        index = ShardsIndex(
            split, dataset.classes, plan["fingerprint"], plan["shard_bytes"], plan["shuffle_seed"], shards
        )
        table = folder / f"{SAMPLES}.part"
        write_table(table, ShardTable.join(dataset.index, places, index.digest))
        storage.put(table, SAMPLES)
    storage.write(INDEX, index.to_text().encode())
    for shard in shards:
        storage.remove(f"{shard.name}.json")
    storage.remove(PLAN)
    progress("writing", count, count)
    return Written(index, str(storage), kept, False)


def _write_shard(
    staged: Path,
    dataset: ClassificationDataset,
    images: Iterator[tuple[int, EncodedImage]],
    pending: tuple[int, EncodedImage] | None,
    shard_bytes: int,
) -> tuple[ShardWriter, tuple[int, EncodedImage] | None, str]:
    """Fill one tar file; gives the image that did not fit, too."""
    with open(staged, "wb") as out:
        writer = ShardWriter(out)
        for number, image in images if pending is None else itertools.chain([pending], images):
            label = int(dataset.labels[number])
            if writer.sizes and writer.bytes + sample_bytes(len(image.data), label) + END_BYTES > shard_bytes:
                return writer, (number, image), writer.finish()
            suffix = PurePosixPath(dataset.index.path(number)).suffix or ".img"
            writer.add(number, suffix, image.data, label)
        return writer, None, writer.finish()


def _finished(storage: Storage) -> Iterator[dict]:
    """The records of the shards that are complete, from the first to the first that is not."""
    present, number = storage.sizes(), 0
    while f"{number:06d}.tar.json" in present:
        record = json.loads(storage.read(f"{number:06d}.tar.json"))
        if present.get(record["name"]) != record["bytes"]:
            return
        yield record
        number += 1


def _place(places: dict[str, np.ndarray], order: np.ndarray, done: int, shard: int, record: dict) -> int:
    rows = order[done : done + record["samples"]]
    places["shard"][rows] = shard
    for name in ("begin", "size", "crc32"):
        places[name][rows] = record[name]
    return done + record["samples"]


def _shard(record: dict) -> Shard:
    return Shard(**{name: record[name] for name in asdict(Shard("", 0, "", 0))})


def _read_ahead(dataset: ClassificationDataset, order: np.ndarray) -> Iterator[tuple[int, EncodedImage]]:
    """The files in order, some of them read ahead: on a network disk most of the time is waiting."""
    rows = iter(order.tolist())
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as executor:
        waiting: deque = deque()
        try:
            for row in rows:
                waiting.append((row, executor.submit(dataset.read_encoded, row)))
                if len(waiting) > _READ_AHEAD:
                    number, future = waiting.popleft()
                    yield number, future.result()
            while waiting:
                number, future = waiting.popleft()
                yield number, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def parse_size(text: str) -> int:
    """Bytes of ``'256MB'`` (decimal units), ``'1GiB'`` (binary ones) or a plain number.

    Raises:
        ConfigError: no size.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    digits = text.strip().rstrip("BKMGIbkmgi ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        return round(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigError(f"{text!r} is no size; write one such as 256MB, 1GB or 512MiB") from error
