"""Blob files: safetensors files with one canonical byte layout, written, checked and read here.

The registry writes its blobs itself, so the layout is a function of the tensors' names and types alone:
the widest dtypes first, then by name, a compact header without metadata, padded with spaces to 8 bytes.
Any safetensors reader can open them. Because the expected header is known exactly, a check compares it
byte for byte and never interprets an untrusted one; values are hashed while they are read, each byte once.
Checking needs no torch. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from sosr_det.errors import RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import (
    DTYPES,
    TensorSpec,
    TensorType,
    check_tensor_name,
    digest_of_specs,
    tensor_bytes,
    tensor_type,
)
from sosr_det.registry.files import open_regular, os_errors

if TYPE_CHECKING:
    from torch import Tensor

# Bytes; a manifest, which says more about each tensor, has the same limit. safetensors' own is 100 MB, and reading that
# much of an untrusted header takes hundreds of megabytes of memory.
HEADER_LIMIT = 16 * 1024 * 1024
_CHUNK = 1 << 20
_DTYPE_OF_CODE = {code: name for name, (code, _) in DTYPES.items()}


@dataclass(frozen=True)
class Layout:
    """The bytes before the values, the order of the tensors, and the size of the whole file in bytes."""

    header: bytes
    order: tuple[str, ...]
    size: int


def blob_layout(types: Mapping[str, TensorType]) -> Layout:
    """The canonical layout of a blob that holds tensors of these types.

    Raises:
        RegistryError: no tensors, a name that cannot be stored, or a header larger than safetensors allows.
    """
    if not types:
        raise RegistryError(
            "there are no tensors to store; expected a non-empty state dict. Check its prefix."
        )
    order = sorted(types, key=lambda name: (-DTYPES[types[name].dtype][1], name))
    table: dict[str, object] = {}
    end = 0
    for name in order:
        kind = types[check_tensor_name(name)]
        begin, end = end, end + kind.nbytes
        table[name] = {
            "dtype": DTYPES[kind.dtype][0],
            "shape": list(kind.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise RegistryError(
            f"the names of {len(types)} tensors need {len(text)} bytes, more than {HEADER_LIMIT}."
        )
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, tuple(order), len(header) + end)


def blob_chunks(state: Mapping[str, Tensor], specs: dict[str, TensorSpec]) -> Iterator[bytes | memoryview]:
    """The bytes of the blob of ``state``, piece by piece; fills ``specs`` with what was handed out.

    Each tensor is hashed as it is handed out, so ``specs`` describes the bytes that were written even if
    another thread changes the tensors meanwhile. It is complete once the iterator is exhausted.

    Raises:
        RegistryError: a tensor cannot be stored, see :func:`sosr_det.registry.digest.tensor_type`.
    """
    types = {name: tensor_type(name, tensor) for name, tensor in state.items()}
    layout = blob_layout(types)
    yield layout.header
    for name in layout.order:
        data = tensor_bytes(name, state[name])
        pieces = hashlib.sha256()
        for start in range(0, data.nbytes, _CHUNK):
            piece = data[start : start + _CHUNK].tobytes()
            pieces.update(piece)
            yield piece
        specs[name] = TensorSpec(types[name].dtype, types[name].shape, pieces.hexdigest())


def check_blob(
    path: Path, specs: Mapping[str, TensorSpec], buffer_for: Callable[[str], memoryview] | None = None
) -> list[Damage]:
    """Compare a blob with the specs that it must have; the list is empty when every bit is right.

    Size, header (names, types, order, padding) and the SHA-256 of every tensor are compared. With
    ``buffer_for`` the values are read into the writable buffers that it returns, one per tensor name, of
    exactly the tensor's bytes: what was hashed is then what is used. On damage, discard the buffers.

    Raises:
        RegistryError: the file cannot be read, or is a link or another special file.
    """
    layout = blob_layout(specs)
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return [Damage(str(path), "file", f"{layout.size} bytes", "no such file")]
    with file, os_errors(path, "read"):
        size = os.fstat(file.fileno()).st_size
        if size != layout.size:
            return [Damage(str(path), "size", f"{layout.size} bytes", f"{size} bytes")]
        header = _read_exactly(file, len(layout.header))
        if header != layout.header:
            return [_header_damage(path, header, layout, specs)]
        found = _hash_values(file, layout, specs, buffer_for)
    return [
        Damage(str(path), f"tensor {name!r}", f"sha256 {specs[name].sha256}", f"sha256 {found[name]}")
        for name in layout.order
        if found[name] != specs[name].sha256
    ]


def verified_chunks(path: Path, specs: Mapping[str, TensorSpec]) -> Iterator[bytes]:
    """The bytes of the blob ``path``, piece by piece, for a copy; each byte that is handed out was hashed.

    The copy may be used only once the iterator is exhausted: damage is known at the end of each tensor.

    Raises:
        CorruptEntryError: it is not the blob that ``specs`` describe; file, part, expected and actual are named.
        RegistryError: the file cannot be read, or is a link or another special file.
    """
    layout = blob_layout(specs)
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise Damage(str(path), "file", f"{layout.size} bytes", "no such file").error() from None
    with file:
        with os_errors(path, "read"):
            size = os.fstat(file.fileno()).st_size
            header = _read_exactly(file, len(layout.header))
        if size != layout.size:
            raise Damage(str(path), "size", f"{layout.size} bytes", f"{size} bytes").error()
        if header != layout.header:
            raise _header_damage(path, header, layout, specs).error()
        yield header
        for name in layout.order:
            left, digest = specs[name].nbytes, hashlib.sha256()
            while left:
                with os_errors(path, "read"):
                    piece = file.read(min(_CHUNK, left))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
                yield piece
            if left or digest.hexdigest() != specs[name].sha256:
                found = f"(the file ended {left} bytes early)" if left else f"sha256 {digest.hexdigest()}"
                raise Damage(str(path), f"tensor {name!r}", f"sha256 {specs[name].sha256}", found).error()


def digest_blob(path: Path) -> str:
    """The tensors digest of a blob that no manifest describes, from its own header and values.

    Raises:
        CorruptEntryError: it is not a blob in the canonical layout.
        RegistryError: it cannot be read.
    """
    with open_regular(path) as file, os_errors(path, "read"):
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(_read_exactly(file, 8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise Damage(
                str(path), "header length", f"2 to {min(HEADER_LIMIT, max(size - 8, 0))}", str(length)
            ).error()
        text = _read_exactly(file, length)
        types = _parse_header(text)
        layout = blob_layout(types) if types else None
        if layout is None or layout.header[8:] != text or layout.size != size:
            raise Damage(
                str(path), "header", "the canonical header of its tensors", "another header or file size"
            ).error()
        found = _hash_values(file, layout, types, None)
    return digest_of_specs({name: TensorSpec(t.dtype, t.shape, found[name]) for name, t in types.items()})


def _hash_values(
    file: FileIO,
    layout: Layout,
    types: Mapping[str, TensorType],
    buffer_for: Callable[[str], memoryview] | None,
) -> dict[str, str]:
    scratch = memoryview(bytearray(_CHUNK)) if buffer_for is None else None
    found: dict[str, str] = {}
    for name in layout.order:
        total = types[name].nbytes
        target = buffer_for(name) if buffer_for is not None else None
        if target is not None and target.nbytes != total:
            raise ValueError(f"the buffer for {name!r} has {target.nbytes} bytes, expected {total}")
        digest = hashlib.sha256()
        done = 0
        while done < total:
            count = min(_CHUNK, total - done)
            view = scratch[:count] if target is None else target[done : done + count]
            got = file.readinto(view)
            if not got:
                break
            digest.update(view[:got])
            done += got
        found[name] = (
            digest.hexdigest() if done == total else f"(the file ended after {done} of {total} bytes)"
        )
    return found


def _read_exactly(file: FileIO, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := file.read(count - len(data))):
        data += piece
    return bytes(data)


def _parse_header(text: bytes) -> dict[str, TensorType] | None:
    """The tensor types that a header names, or None when it is not understood. Never trusted for offsets."""
    try:
        table = json.loads(text)
        types = {}
        for name, row in table.items():
            dtype, shape = _DTYPE_OF_CODE[row["dtype"]], row["shape"]
            if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
                return None
            types[check_tensor_name(name)] = TensorType(dtype, tuple(shape))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RegistryError):
        return None
    return types


def _header_damage(path: Path, header: bytes, layout: Layout, specs: Mapping[str, TensorSpec]) -> Damage:
    """Say which tensor differs if the header can be read, else which byte."""
    found = _parse_header(header[8:]) or {}
    if found:
        for name in sorted(found.keys() | specs.keys()):
            want, have = specs.get(name), found.get(name)
            if want is None or have is None or (want.dtype, want.shape) != (have.dtype, have.shape):
                expected = str(want) if want else "no such tensor"
                return Damage(str(path), f"header, tensor {name!r}", expected, str(have) if have else "none")
    at = next(i for i, (a, b) in enumerate(zip(header, layout.header, strict=False)) if a != b)
    return Damage(str(path), f"header, byte {at}", f"0x{layout.header[at]:02x}", f"0x{header[at]:02x}")
