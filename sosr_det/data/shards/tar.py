"""Tar files as WebDataset reads them, the same bytes every time, with the place of each image known while writing."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
END_BYTES = 2 * BLOCK  # of zeros end an archive


def stored_bytes(size: int) -> int:
    """What a file of ``size`` bytes takes in an archive: a header, and whole blocks."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def sample_bytes(size: int, label: int) -> int:
    """What an image and its label take."""
    return stored_bytes(size) + stored_bytes(len(str(label)))


class ShardWriter:
    """Writes one tar file: image ``number`` is ``00000012.jpg``, and its label in decimal digits ``00000012.cls``.

    No times, owners or modes of the source are kept, so that the same data gives the same bytes.

    Args:
        out: a new file.

    Attributes:
        bytes: written so far.
        begins, sizes, checksums: of each image, its first byte in the archive, its length and its CRC-32.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.begins: list[int] = []
        self.sizes: list[int] = []
        self.checksums: list[int] = []

    def add(self, number: int, suffix: str, data: bytes, label: int) -> None:
        """Append an image; ``suffix`` with its dot, in any case."""
        key = f"{number:08d}"
        self._add_file(key + suffix.lower(), data)
        self.begins.append(self.bytes - (stored_bytes(len(data)) - BLOCK))
        self.sizes.append(len(data))
        self.checksums.append(zlib.crc32(data))
        self._add_file(f"{key}.cls", str(label).encode())

    def finish(self) -> str:
        """End the archive; gives its sha256 in hexadecimal."""
        self._write(bytes(END_BYTES))
        return self._hash.hexdigest()

    def _add_file(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._hash.update(data)
        self.bytes += len(data)


def file_sha256(file: Path) -> str:
    """Of a file on this machine, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
