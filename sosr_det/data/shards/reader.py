"""The bytes of one image out of a shard: one ``pread`` here, a range or the whole shard from elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from sosr_det.cache_root import cache_root
from sosr_det.data.shards.layout import Shard
from sosr_det.data.shards.storage import Storage, told_as_os_error
from sosr_det.data.shards.tar import file_sha256
from sosr_det.errors import ConfigError, DataError

_MOST_OPEN = 128  # files of one process; systems allow 1024
_BLOCKS_KEPT = 4
_PAUSES_SECONDS = (0.5, 2.0)  # before reading from a store is tried again
_LOCK_SECONDS = 3600
_COPY_BYTES = 2**20


class ShardReader:
    """Reads from the shards of one folder; safe for threads, forked and spawned processes.

    Args:
        storage: the folder.
        shards: its tar files.
        keep: fetch remote shards as a whole into this user's cache, checking their sha256, and read there.
        keep_bytes: remove the shards that were not used for longest while those kept are more than this; None keeps
            all.
        read_ahead_bytes: without ``keep``: read remote shards in blocks of this size, four of which are kept for each
            process. Worth it where images are read in the order in which they lie (``ShardSampler``, unshuffled
            shards). 0 reads single images.

    Raises:
        ConfigError: negative sizes.
    """

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[Shard],
        keep: bool = False,
        keep_bytes: int | None = None,
        read_ahead_bytes: int = 0,
    ) -> None:
        if read_ahead_bytes < 0 or (keep_bytes is not None and keep_bytes < 0):
            raise ConfigError(
                f"sizes must be at least 0, got read_ahead_bytes={read_ahead_bytes}, keep_bytes={keep_bytes}"
            )
        self.storage = storage
        self.shards = list(shards)
        self._keep = keep and storage.folder is None
        self._keep_bytes = keep_bytes
        self._block_bytes = read_ahead_bytes
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        left_out = ("_lock", "_open", "_blocks", "_process")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, number: int, begin: int, size: int) -> bytes:
        """``size`` bytes of shard ``number`` from ``begin`` on.

        Raises:
            DataError: the shard is missing, cut off or out of reach.
        """
        if self._process != os.getpid():
            self._forget()  # a lock that another thread held while forking would stay locked
        try:
            if self.storage.folder is not None or self._keep:
                data = self._local(number).read(begin, size)
            elif self._block_bytes:
                data = self._from_blocks(number, begin, size)
            else:
                data = self._range(number, begin, begin + size)
        except FileNotFoundError as error:
            raise DataError(f"{self._name(number)} is missing. {self._remedy()}") from error
        except OSError as error:
            raise DataError(
                f"{self._name(number)} cannot be read: {error}. Is the disk or the store in reach?"
            ) from error
        if len(data) != size:
            raise DataError(
                f"{self._name(number)} is cut off: it ends at byte {begin + len(data)}, and was "
                f"{self.shards[number].bytes} bytes long. {self._remedy()}"
            )
        return data

    def _name(self, number: int) -> str:
        return f"shard {self.storage.where(self.shards[number].name)}"

    def _remedy(self) -> str:
        return "Copy it again from where the shards were made, and check all with `sosr-det data shard --verify`."

    def _local(self, number: int) -> _OpenFile:
        with self._lock:
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = self._opened(number)
                while len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)  # closed when no thread reads from it any more
            self._open.move_to_end(number)
            return file

    def _opened(self, number: int) -> _OpenFile:
        if not self._keep:
            return _OpenFile(self.storage.folder / self.shards[number].name)
        try:
            return _OpenFile(self._kept(number))
        except FileNotFoundError:  # another process made room just then
            return _OpenFile(self._kept(number))

    def _kept(self, number: int) -> Path:
        """The shard in this user's cache, fetched unless it is there."""
        shard = self.shards[number]
        folder = cache_root() / "shards"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / f"{shard.sha256}.tar"
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            if file.is_file() and file.stat().st_size == shard.bytes:
                os.utime(file)
                return file
            staged = folder / f"{shard.sha256}.{os.getpid()}.part"
            try:
                self._fetch(number, staged)
                os.replace(staged, file)
            finally:
                staged.unlink(missing_ok=True)
        if self._keep_bytes is not None:
            _remove_unused(folder, self._keep_bytes, file)
        return file

    def _fetch(self, number: int, staged: Path) -> None:
        shard = self.shards[number]

        def fetch() -> None:
            with self.storage.open(shard.name) as stream, open(staged, "wb") as out:
                while block := stream.read(_COPY_BYTES):
                    out.write(block)

        _patiently(fetch)
        found = file_sha256(staged)
        if found != shard.sha256:
            raise DataError(
                f"{self._name(number)} is damaged: its sha256 is {found} instead of {shard.sha256}. {self._remedy()}"
            )

    def _from_blocks(self, number: int, begin: int, size: int) -> bytes:
        length, end = self._block_bytes, begin + size
        parts = []
        for block in range(begin // length, (end - 1) // length + 1):
            start = block * length
            parts.append(self._block(number, start)[max(begin - start, 0) : end - start])
        return b"".join(parts)

    def _block(self, number: int, start: int) -> bytes:
        with self._lock:
            found = self._blocks.get((number, start))
            if found is None:
                end = min(start + self._block_bytes, self.shards[number].bytes)
                found = self._blocks[number, start] = self._range(number, start, end)
                while len(self._blocks) > _BLOCKS_KEPT:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end((number, start))
            return found

    def _range(self, number: int, begin: int, end: int) -> bytes:
        path = self.storage.path(self.shards[number].name)
        return _patiently(lambda: self.storage.filesystem.cat_file(path, start=begin, end=end))


class _OpenFile:
    """A descriptor that is closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = None
        self._descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        )

    def read(self, begin: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, begin)
        while 0 < len(data) < size:  # a network disk may give less than was asked for
            more = os.pread(self._descriptor, size - len(data), begin + len(data))
            if not more:
                break
            data += more
        return data

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _patiently(read):
    """Try again after a failure that may pass; a missing file is no such failure."""
    for pause in _PAUSES_SECONDS:
        try:
            with told_as_os_error():
                return read()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    with told_as_os_error():
        return read()


def _remove_unused(folder: Path, most_bytes: int, used: Path) -> None:
    files = []
    for path in folder.glob("*.tar"):
        try:
            status = path.stat()
        except OSError:  # another process was faster
            continue
        files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            return
        if path != used:
            path.unlink(missing_ok=True)  # whoever has it open reads on
            total -= size
