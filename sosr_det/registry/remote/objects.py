"""The few operations that a registry needs of a store, on whatever fsspec can reach.

Keys are relative to the registry's root ("refs/NAME/TAG.json"). Every operation is retried a few times and raises what
:func:`sosr_det.registry.remote.faults.attempt` raises.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sosr_det.errors import InstallationError, RegistryError
from sosr_det.registry.remote.faults import attempt, http_status
from sosr_det.registry.remote.urls import PACKAGES, RemoteUrl

# Stores whose objects appear whole or not at all, under their name at once.
S3 = ("s3", "s3a")
OBJECT_STORES = (*S3, "gs", "gcs", "az", "abfs", "abfss", "memory")
WEB = ("http", "https")

_PART = 16 << 20  # bytes of one request of a large upload or download
_PARALLEL = 4  # such requests at a time
# The store of memory:// is one dictionary per process, whose files share their read position.
_MEMORY = threading.RLock()


@dataclass(frozen=True)
class Content:
    """What an object held and which version that was, in the store's own terms (S3: the ETag)."""

    data: bytes
    version: str | None


@dataclass(frozen=True)
class Info:
    """Size in bytes, and when the store last saw it written (seconds since 1970), None where it does not say."""

    size: int
    modified: float | None


class ObjectStore:
    """The store at ``url``. Nothing is imported and nothing connected before the first operation."""

    def __init__(self, url: RemoteUrl) -> None:
        self.url = url
        self._connected: tuple[int, Any, str] | None = None  # process id, file system, base path
        self._guard: Any = _MEMORY if url.protocol == "memory" else contextlib.nullcontext()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, whatever the permissions."""
        return self.url.protocol in WEB

    def _connect(self) -> tuple[Any, str]:
        if self._connected is not None and self._connected[0] == os.getpid():  # a forked child connects anew
            return self._connected[1:]
        package, install = PACKAGES.get(self.url.protocol, ("", ""))
        options = {} if self.url.protocol in ("ssh", "sftp") else {"use_listings_cache": False}
        try:
            from fsspec.core import url_to_fs

            fs, base = attempt(self.url, "", "open", lambda: url_to_fs(self.url.text, **options))
        except ImportError as error:
            need = f"needs the package {package}" if package else f"needs a package that is missing ({error})"
            raise InstallationError(
                f"{self.url} {need}. Run: {install or 'pip install it (see the message)'}."
            ) from error
        except ValueError as error:  # fsspec's word for a protocol that it does not know
            raise RegistryError(
                f"{self.url} cannot be opened: {error}. Expected a path, or a URL that fsspec knows (s3://, gs://, "
                "az://, https://, ...)."
            ) from error
        self._connected = (os.getpid(), fs, str(base).rstrip("/"))
        return fs, self._connected[2]

    def _path(self, key: str) -> tuple[Any, str]:
        fs, base = self._connect()
        return fs, f"{base}/{key}" if key else base

    def _do(self, key: str, action: str, work: Callable[[Any, str], Any]) -> Any:
        fs, path = self._path(key)

        def guarded() -> Any:
            with self._guard:
                return work(fs, path)

        return attempt(self.url, key, action, guarded)

    # ---- reading -------------------------------------------------------------------------------------

    def read(self, key: str, limit: int, with_version: bool = False) -> Content:
        """An object whole, or its first ``limit`` + 1 bytes when it is larger; its version, where asked for and known.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def work(fs: Any, path: str) -> Content:
            if not with_version and self.url.protocol not in WEB and getattr(fs, "async_impl", False):
                return Content(_beginning(fs, path, limit + 1), None)  # one request instead of two
            options = {"block_size": 0} if self.url.protocol in WEB else {"cache_type": "none"}
            with fs.open(path, "rb", **options) as file:
                data = file.read(limit + 1)
                details = getattr(file, "details", None)
                return Content(bytes(data), details.get("ETag") if isinstance(details, dict) else None)

        return self._do(key, "read", work)

    def read_many(self, keys: Iterable[str], limit: int) -> dict[str, Content | Exception]:
        """Many small objects, several at a time; an object that cannot be read has its error instead."""

        def one(key: str) -> Content | Exception:
            try:
                return self.read(key, limit)
            except (OSError, RegistryError) as error:
                return error

        keys = list(keys)
        fs, _ = self._connect()
        if len(keys) < 2 or not getattr(fs, "async_impl", False):  # others may share one connection
            return {key: one(key) for key in keys}
        with ThreadPoolExecutor(16, thread_name_prefix="sosr-registry") as pool:
            return dict(zip(keys, pool.map(one, keys), strict=True))

    def info(self, key: str) -> Info:
        """Size and age of an object. Raises FileNotFoundError when there is none."""

        def work(fs: Any, path: str) -> Info:
            found = fs.info(path)
            if found.get("type") == "directory":
                raise FileNotFoundError(path)
            return _info(found)

        return self._do(key, "look at", work)

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        """The ``size`` bytes of a large object in order, piece by piece, the next ones being fetched meanwhile.

        Raises:
            FileNotFoundError: there is no such object (any more).
        """
        fs, path = self._path(key)
        if self.url.protocol in WEB or not getattr(fs, "async_impl", False):
            yield from self._stream(key, size)
            return

        def part(start: int) -> bytes:
            end = min(start + _PART, size)
            return attempt(self.url, key, "read", lambda: bytes(fs.cat_file(path, start=start, end=end)))

        starts = iter(range(0, size, _PART))
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="sosr-registry") as pool:
            waiting: list[Future[bytes]] = []
            try:
                for start in starts:
                    waiting.append(pool.submit(part, start))
                    if len(waiting) == _PARALLEL:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _stream(self, key: str, size: int) -> Iterator[bytes]:
        """One connection, read in order. A break in the middle is an error, not a short object."""
        options = {"block_size": 0} if self.url.protocol in WEB else {}
        file = self._do(key, "read", lambda fs, path: fs.open(path, "rb", **options))
        with file:
            left, done = size, 0
            while left:

                def work(_fs: Any, _path: str, at: int = done, count: int = min(left, 1 << 20)) -> bytes:
                    if self.url.protocol == "memory":
                        file.seek(at)
                    return bytes(file.read(count))

                fs, path = self._path(key)
                try:
                    with self._guard:
                        piece = work(fs, path)
                except Exception as error:
                    broken = error
                    attempt(self.url, key, "read", lambda error=broken: _raise(error))
                    raise
                if not piece:
                    return
                left -= len(piece)
                done += len(piece)
                yield piece

    def list(self, prefix: str) -> dict[str, Info]:
        """All objects below ``prefix`` by key; empty when there is none.

        Raises:
            RegistryError: as always, and on the web where the server does not list its folders.
        """
        if self.url.protocol in WEB:
            return self._list_web(prefix)

        def work(fs: Any, path: str) -> dict[str, Info]:
            fs.invalidate_cache()
            base = f"{self._connect()[1]}/"
            found = fs.find(path, detail=True) or {}
            return {name[len(base) :]: _info(row) for name, row in found.items() if name.startswith(base)}

        try:
            return self._do(prefix, "list", work)
        except FileNotFoundError:
            return {}

    def _list_web(self, prefix: str, depth: int = 3) -> dict[str, Info]:
        fs, base = self._connect()
        try:
            rows = attempt(self.url, prefix, "list", lambda: fs.ls(f"{base}/{prefix}/", detail=True))
        except FileNotFoundError:
            rows = []
        found: dict[str, Info] = {}
        start = f"{base}/"
        for row in rows:
            name = str(row["name"])
            key = name[len(start) :].rstrip("/")
            if not name.startswith(f"{base}/{prefix}/") or key == prefix or "?" in key:
                continue
            if name.endswith("/") and depth > 1:
                found |= self._list_web(key, depth - 1)
            elif not name.endswith("/"):
                found[key] = _info(row)
        return found

    def top_names(self) -> list[str]:
        """Names of what lies directly in the root, sorted."""

        def work(fs: Any, path: str) -> list[str]:
            fs.invalidate_cache()
            return sorted(posixpath.basename(str(name).rstrip("/")) for name in fs.ls(path, detail=False))

        try:
            return self._do("", "list", work)
        except FileNotFoundError:
            return []

    # ---- writing -------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes, *, absent: bool = False, version: str | None = None) -> bool:
        """Write a small object: always, only if there is none (``absent``), or only over ``version`` (S3).

        Returns:
            Whether it was written; False when the condition was not met.
        """
        self.refuse_writing()

        def work(fs: Any, path: str) -> None:
            if self.url.protocol not in OBJECT_STORES:
                self._by_rename(fs, path, absent, lambda target: fs.pipe_file(target, data))
            elif version is not None:
                fs.pipe_file(path, data, IfMatch=version)
            else:
                fs.pipe_file(path, data, mode="create" if absent else "overwrite")

        try:
            self._do(key, "write", work)
        except FileExistsError:
            return False
        except FileNotFoundError:  # If-Match on an object that is gone
            if version is None:
                raise
            return False
        return True

    def upload(self, key: str, file: Path, *, absent: bool, moved: Callable[[int], None]) -> bool:
        """Upload a local file, in parts where it is large; ``moved`` hears how many bytes went.

        Returns:
            Whether it was written; False when ``absent`` and there is one.
        """
        self.refuse_writing()
        from fsspec.callbacks import Callback

        class Moved(Callback):
            def relative_update(self, inc: int = 1) -> None:
                moved(inc)
                super().relative_update(inc)

            def absolute_update(self, value: int) -> None:
                moved(value - self.value)
                super().absolute_update(value)

        mode = {"mode": "create" if absent else "overwrite"}
        if self.url.protocol in S3:
            mode |= {"chunksize": _PART, "max_concurrency": _PARALLEL}

        def work(fs: Any, path: str) -> None:
            if self.url.protocol in OBJECT_STORES:
                fs.put_file(str(file), path, callback=Moved(), **mode)
            else:
                self._by_rename(fs, path, absent, lambda to: fs.put_file(str(file), to, callback=Moved()))

        try:
            self._do(key, "write", work)
        except FileExistsError:
            return False
        return True

    def _by_rename(self, fs: Any, path: str, absent: bool, write: Callable[[str], Any]) -> None:
        """On a store with folders: write beside and move into place, so that nobody meets half a file."""
        if absent and fs.exists(path):
            raise FileExistsError(path)
        _, base = self._connect()
        part = f"{base}/tmp/{os.getpid()}-{secrets.token_hex(8)}.part"
        for folder in (posixpath.dirname(part), posixpath.dirname(path)):
            fs.makedirs(folder, exist_ok=True)
        try:
            write(part)
            fs.mv(part, path)
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(part)
            raise

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self.refuse_writing()
        with contextlib.suppress(FileNotFoundError):
            self._do(key, "remove", lambda fs, path: fs.rm_file(path))

    def refuse_writing(self) -> None:
        """Raise :class:`RegistryError` for a store that can only be read."""
        if self.read_only:
            raise RegistryError(
                f"{self.url} is read-only: a registry behind a web server can be pulled from, not written. Write to "
                "the folder or bucket that it serves."
            )

    def exclusively(self) -> Any:
        """A context in which no other thread of this process writes; only ``memory://`` needs it."""
        return self._guard


def _beginning(fs: Any, path: str, count: int) -> bytes:
    try:
        return bytes(fs.cat_file(path, start=0, end=count))
    except Exception as error:
        if http_status(error) == 416:  # no object is too short for its beginning but an empty one
            return b""
        raise


def _raise(error: Exception) -> None:
    raise error


def _info(row: dict[str, Any]) -> Info:
    modified = None
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        if (value := row.get(name)) is not None:
            modified = _seconds(value)
            break
    return Info(int(row.get("size") or 0), modified)


def _seconds(value: Any) -> float | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None
