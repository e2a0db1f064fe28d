"""A file of named flat arrays that is read by mapping it: a checked header, then the arrays' bytes. No pickle.

The layout: 8 bytes magic, 4 bytes length of the header and 4 bytes its CRC-32 (little endian), the header in JSON
(UTF-8), then the arrays at multiples of 64 bytes. The header has each array's type, length, place and CRC-32, and
whatever the writer has to say in ``"about"``.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"SOSRARR1"
_ALIGNMENT = 64
_TYPES = ("|u1", "<u4", "<u8", "<i4", "<i8")
_LONGEST_HEADER = 64 * 2**20


def write_arrays(
    file: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], mode: int = 0o600
) -> None:
    """Replace ``file`` as a whole: at no moment is there a part of it under its name.

    Args:
        file: in an existing folder.
        arrays: one-dimensional, of unsigned or signed integers.
        about: anything that JSON can hold.
        mode: of the file, less the umask; by default its owner's alone.

    Raises:
        OSError: it cannot be written.
    """
    entries, place = {}, 0
    laid_out = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in laid_out.items():
        kind = array.dtype.newbyteorder("<").str if array.dtype.itemsize > 1 else "|u1"
        if kind not in _TYPES or array.ndim != 1:
            raise TypeError(f"{name} is {array.dtype} {array.shape}")
        entries[name] = {"type": kind, "length": len(array), "place": place, "crc32": zlib.crc32(array)}
        place += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"arrays": entries, "about": dict(about)}).encode()
    staged = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(8)}.part")
    try:
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(MAGIC + struct.pack("<II", len(header), zlib.crc32(header)) + header)
            _fill_up(out)
            for array in laid_out.values():
                out.write(array)
                _fill_up(out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(staged, file)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _fill_up(out: Any) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))


def read_arrays(descriptor: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, read-only and mapped, and ``about``. The descriptor may be closed afterwards.

    Raises:
        ValueError: it is no such file, cut off, or its bytes are not those that were written.
        OSError: it cannot be read.
    """
    size = os.fstat(descriptor).st_size
    if size < 16:
        raise ValueError(f"it has {size} bytes, fewer than the shortest header")
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    if mapped[:8] != MAGIC:
        raise ValueError("it does not begin as such a file does, or is of another version")
    length, checksum = struct.unpack("<II", mapped[8:16])
    if length > min(size - 16, _LONGEST_HEADER):
        raise ValueError("it is cut off within its header")
    text = mapped[16 : 16 + length]
    if zlib.crc32(text) != checksum:
        raise ValueError("its header is damaged")
    header = json.loads(text)
    start = -(-(16 + length) // _ALIGNMENT) * _ALIGNMENT
    arrays = {}
    for name, entry in header["arrays"].items():
        kind = np.dtype(entry["type"] if entry["type"] in _TYPES else "void")
        begin, count = start + entry["place"], entry["length"]
        if begin + count * kind.itemsize > size:
            raise ValueError(f"it is cut off within {name}")
        array = np.frombuffer(mapped, kind, count, begin) if count else np.zeros(0, kind)
        if zlib.crc32(array) != entry["crc32"]:
            raise ValueError(f"{name} is damaged: its checksum is another one")
        arrays[name] = array
    return arrays, header["about"]
