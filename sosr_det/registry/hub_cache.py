"""Weights files of web addresses, downloaded once into torch.hub's cache and checked each time they are used.

The cache is the folder that torchvision, timm's older releases and MMEngine share (``torch.hub.get_dir()``/checkpoints,
moved with ``$TORCH_HOME``), so a file that any of them fetched is found. Nothing is read from a file here but its hash.
"""

from __future__ import annotations

import hashlib
import http.client
import re
from pathlib import Path
from urllib.parse import urlsplit

from sosr_det.errors import CheckpointError
from sosr_det.registry.offline import ENV_OFFLINE, is_offline

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")
# "resnet50-0676ba61.pth": the beginning of the file's SHA-256. Eight digits that begin with 20 are a date.
_HASH = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.[A-Za-z]+")
_CHUNK = 1 << 20


def fetch(url: str) -> Path:
    """The local copy of ``http(s)://…/NAME``, downloaded unless it is there.

    Where NAME ends in the first digits of its SHA-256, as torchvision's and OpenMMLab's do, the file is compared with
    them, also one that was in the cache. Other names are kept in a folder per address: torch.hub goes by the name
    alone, and gives two addresses that end in ``epoch_12.pth`` the same file. The file appears whole or not at all.

    Raises:
        CheckpointError: an address without a usable file name, no contact, an error status, another hash, no space;
            or it is not in the cache and ``$SOSR_OFFLINE`` is set.
    """
    name = _file_name(url)
    expected = _HASH.search(name)
    folder = _cache_folder()
    if expected is None:
        folder = folder / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = folder / name
    if not path.is_file():
        _download(url, path)
    if expected is not None:
        actual = _sha256(path)
        if not actual.startswith(expected[1]):
            raise CheckpointError(
                f"{path} has the SHA-256 {actual[:16]}…, its name promises {expected[1]}…: it was damaged or replaced, "
                f"or {url} serves another file. It was not opened. Remove it to download it again; if the digits in "
                "that name are no hash, download the file yourself and give its path."
            )
    return path


def _file_name(url: str) -> str:
    if not url.isprintable() or " " in url:  # urlsplit would leave line ends out without a word
        raise CheckpointError(f"{url!r} is no web address: it holds a blank or a control character.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CheckpointError(f"{url!r} is no web address: {error}.") from None
    name = parts.path.rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CheckpointError(f"{url!r} is no web address; expected http(s)://HOST/…/NAME.pth.")
    if _SAFE_NAME.fullmatch(name) is None or ".." in name:
        raise CheckpointError(
            f"the address {url!r} ends in {name!r}, which cannot name a file; expected letters, digits and . _ + = @ -"
            ". Download the file yourself and give its path."
        )
    return name


def _cache_folder() -> Path:
    import torch

    return Path(torch.hub.get_dir()).expanduser() / "checkpoints"


def _download(url: str, path: Path) -> None:
    import torch

    if is_offline():
        raise CheckpointError(
            f"{url} is not in the cache, and ${ENV_OFFLINE} is set. Put the file at {path}, or give a local path."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, http.client.HTTPException, ValueError) as error:  # urllib's errors are OSErrors
        raise CheckpointError(
            f"{url} cannot be downloaded to {path}: {type(error).__name__}: {error}. Check the address, the network "
            "and the disk, or download the file elsewhere and give its path."
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()
