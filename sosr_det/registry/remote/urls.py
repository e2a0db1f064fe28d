"""URLs of remote registries: which roots are remote, what a URL may hold, which package it needs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from sosr_det.errors import RegistryError
from sosr_det.registry.digest import sha256_hex

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL = ("file", "local")


def _install(extra: str) -> str:
    return f"tools/setup.sh {extra} (or pip install -e '.[{extra}]') in the checkout of sosr-det"


# protocol -> (package that fsspec needs for it, how to get it)
PACKAGES: dict[str, tuple[str, str]] = {
    "s3": ("s3fs", _install("s3")),
    "s3a": ("s3fs", _install("s3")),
    "gs": ("gcsfs", _install("gcs")),
    "gcs": ("gcsfs", _install("gcs")),
    "az": ("adlfs", _install("azure")),
    "abfs": ("adlfs", _install("azure")),
    "abfss": ("adlfs", _install("azure")),
    "http": ("aiohttp", "pip install aiohttp"),
    "https": ("aiohttp", "pip install aiohttp"),
    "ssh": ("paramiko", "pip install paramiko"),
    "sftp": ("paramiko", "pip install paramiko"),
}


@dataclass(frozen=True)
class RemoteUrl:
    """The root of a remote registry: ``protocol`` ("s3") and the ``text`` that fsspec takes, without a final slash."""

    protocol: str
    text: str

    def __str__(self) -> str:
        """The URL as it may be shown: without a user name and password."""
        scheme, _, rest = self.text.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    def of(self, key: str) -> str:
        """The URL of an object below the root, to be shown."""
        return f"{self}/{key}"

    @property
    def folder_name(self) -> str:
        """A name for this registry's folder in the cache: readable, and different for every URL."""
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", str(self)).strip("_.")[:60]
        return f"{readable}-{sha256_hex(self.text.encode())[:16]}"


def is_remote(root: str | os.PathLike[str]) -> bool:
    """Whether ``root`` is a URL of something that is not the local file system."""
    match = _SCHEME.match(os.fspath(root))
    return match is not None and match[1].lower() not in _LOCAL


def local_path(root: str | os.PathLike[str]) -> str:
    """The path that a local root means: itself, or what a ``file://`` URL holds.

    Raises:
        RegistryError: a ``file://`` URL that names another machine.
    """
    text = os.fspath(root)
    match = _SCHEME.match(text)
    if match is None:
        return text
    path = text[match.end() :]
    path = path.removeprefix("localhost") if path.startswith("localhost/") else path
    if not path.startswith("/") and not re.match(r"[A-Za-z]:[\\/]", path):
        raise RegistryError(
            f"{text!r} is not the URL of a folder on this machine: expected file:///absolute/path (three slashes), "
            "or the plain path."
        )
    return path


def parse_remote(root: str | os.PathLike[str]) -> RemoteUrl:
    """Parse the URL of a remote registry.

    Raises:
        RegistryError: not a URL, or one with parts that a registry's root cannot have.
    """
    text = os.fspath(root)
    match = _SCHEME.match(text)
    forms = (
        "expected a path, or a URL such as s3://bucket/prefix, gs://bucket/prefix or https://host/registry"
    )
    if match is None:
        raise RegistryError(f"{text!r} is not a URL; {forms}.")
    body = text[match.end() :].rstrip("/")
    segments = body.split("/")
    if not body or "" in segments or {".", ".."} & set(segments):
        raise RegistryError(f"{text!r} has an empty, '.' or '..' part; {forms}.")
    if "::" in text or "?" in body or "#" in body or any(not char.isprintable() for char in text):
        raise RegistryError(
            f"{text!r} holds '::', '?', '#' or a control character, which a registry's root cannot have; {forms}. "
            "Options of the store (endpoint, profile) go into its environment variables or fsspec's config file."
        )
    protocol = match[1].lower()
    return RemoteUrl(protocol, f"{protocol}://{body}")
