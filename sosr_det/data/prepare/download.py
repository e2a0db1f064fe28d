"""Downloading one file over HTTP, continued where an earlier try broke off.

Why our own: torchvision's `download_url` and `pooch` (1.9) start again from zero, fsspec's HTTP file system needs
aiohttp and does not continue either, and huggingface_hub continues only the Hub's own files. The standard library's
urllib follows redirects, reads the proxy variables (http_proxy, https_proxy, no_proxy) and has timeouts.
"""

from __future__ import annotations

import http.client
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sosr_det
from sosr_det.data.prepare.catalogue import Archive
from sosr_det.data.prepare.checksum import describe_difference, file_md5
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.errors import DataError

_CHUNK = 1 << 18  # bytes
_LONGEST_PAUSE_S = 30.0
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(DataError):
    """A file could not be downloaded; the message says why."""


class _BrokenTransferError(Exception):
    """No contact, or a transfer that ended early: another try may mend it."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        contact_s: seconds for the whole first contact (name, connection, redirects, answer), all addresses together.
            Without an answer there is one try only, so that a machine without network learns it in this time.
        stall_s: seconds without a byte after which a running transfer counts as broken.
        retries: tries in a row without a new byte before a broken transfer is given up; 0 never tries again.
        pause_s: seconds before the first new try; doubled with each further one, at most 30.
    """

    contact_s: float = 20.0
    stall_s: float = 30.0
    retries: int = 5
    pause_s: float = 1.0


def download_archive(
    archive: Archive,
    target: Path,
    *,
    patience: Patience | None = None,
    progress: Progress = no_progress,
) -> None:
    """Download an archive to ``target``, which appears only complete and with the published checksum.

    Until then the bytes are in ``target`` + ``.part``, which a later call continues (HTTP ``Range``; a server that
    does not support it is read from the start). Where the archive's ``url`` does not give it, its mirrors are asked,
    which continue the same ``.part``: all hold the same file.

    Raises:
        DownloadError: from every place no server, an error status, a transfer that keeps breaking (the ``.part`` file
            stays), or another checksum (the ``.part`` file is removed).
        OSError: the file cannot be written.
    """
    assert archive.url is not None
    patience = patience or Patience()
    reasons = []
    for url in (archive.url, *archive.mirrors):
        try:
            _download_from(url, archive, target, patience, progress)
            return
        except DownloadError as error:
            reasons.append(error)
    raise DownloadError("\n".join(map(str, reasons))) from reasons[0]


def _download_from(url: str, archive: Archive, target: Path, patience: Patience, progress: Progress) -> None:
    part = target.with_name(f"{target.name}.part")
    continued = part.exists() and part.stat().st_size > 0
    while True:
        _fetch(url, part, patience, progress)
        found = file_md5(part, progress)
        if found == archive.md5:
            break
        difference = describe_difference(archive, part, found)
        part.unlink()
        if not continued:
            raise DownloadError(
                f"{url} did not give the published {archive.filename}: {difference}. "
                "The downloaded file was removed. A proxy or the server may have changed it; try again later."
            )
        continued = False  # the first part may be of another version of the file: once more, from the start
    os.replace(part, target)


def _fetch(url: str, part: Path, patience: Patience, progress: Progress) -> None:
    furthest, failures, contacted = _size(part), 0, False
    while True:
        try:
            response, offset = _contact(url, _size(part), patience)
            if response is None:  # the part is the whole file already
                return
            contacted = True
            with response:
                _receive(response, part, offset, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            reason, contacted = f"the server answered {error.code} {error.reason}", True
            if error.code not in _RETRIED_STATUS:
                raise DownloadError(f"cannot download {url}: {reason}.") from error
        except _BrokenTransferError as error:
            reason = str(error)
            if not contacted:
                raise DownloadError(
                    f"cannot reach {url}: {reason}. Behind a proxy, set https_proxy and http_proxy."
                ) from error
        size = _size(part)
        failures = 0 if size > furthest else failures + 1
        furthest = max(furthest, size)
        if failures > patience.retries:
            raise DownloadError(
                f"the download of {url} broke off at {size:,} bytes ({reason}), {failures} times in a row. "
                f"What came so far is kept in {part}; the same command goes on from there."
            )
        time.sleep(min(patience.pause_s * 2.0 ** (failures - 1), _LONGEST_PAUSE_S))


def _contact(url: str, size: int, patience: Patience) -> tuple[Any, int]:
    """Return the open response and the offset that its first byte belongs to; (None, size) if nothing is left."""
    request = urllib.request.Request(url, headers={"User-Agent": f"sosr-det/{sosr_det.__version__}"})
    if size:
        request.add_header("Range", f"bytes={size}-")
    try:
        response = _open(request, patience)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not size:
            raise
        error.close()
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if whole and int(whole[1]) == size:
            return None, size
        return _contact(url, 0, patience)
    if response.status != 206:
        return response, 0
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if start and int(start[1]) <= size:
        return response, int(start[1])
    response.close()
    return _contact(url, 0, patience)


def _open(request: urllib.request.Request, patience: Patience) -> Any:
    # In a thread, because no timeout of the socket covers name resolution, and each of a host's addresses gets its own.
    answers: queue.SimpleQueue = queue.SimpleQueue()
    abandoned = threading.Event()

    def contact() -> None:
        try:
            # Not `urlopen`, whose shared opener keeps the proxies of its first use.
            answer = urllib.request.build_opener().open(request, timeout=patience.stall_s)
        except BaseException as error:
            answers.put(error)
            return
        answers.put(answer)
        if abandoned.is_set():
            answer.close()

    threading.Thread(target=contact, name="contact", daemon=True).start()
    try:
        answer = answers.get(timeout=patience.contact_s)
    except queue.Empty:
        abandoned.set()
        raise _BrokenTransferError(f"no answer within {patience.contact_s:g} seconds") from None
    except BaseException:
        abandoned.set()
        raise
    if isinstance(answer, (http.client.HTTPException, OSError)) and not isinstance(
        answer, urllib.error.HTTPError
    ):
        raise _BrokenTransferError(_reason(answer)) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _receive(response: Any, part: Path, offset: int, progress: Progress) -> None:
    length = response.headers.get("Content-Length")
    whole = offset + int(length) if length is not None else None
    with open(part, "r+b" if part.exists() else "wb") as file:
        file.truncate(offset)
        file.seek(offset)
        done = offset
        while chunk := _read(response):
            file.write(chunk)
            done += len(chunk)
            progress(f"downloading {part.name.removesuffix('.part')}", done, whole)
        file.flush()
        os.fsync(file.fileno())
    if whole is not None and done < whole:
        raise _BrokenTransferError(f"the connection closed after {done:,} of {whole:,} bytes")


def _read(response: Any) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenTransferError(_reason(error)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server fell silent"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
