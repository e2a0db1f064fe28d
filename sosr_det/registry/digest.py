"""Canonical hashing of tensors: the same names, types and values give the same digest, always.

A file's bytes cannot play this part, because the same tensors can be stored in different orders with
different metadata. Here a tensor is its raw little-endian contiguous bytes; where it lives, how it is
strided and whether it shares storage make no difference. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sosr_det.errors import RegistryError

if TYPE_CHECKING:
    from torch import Tensor

# torch's name of a dtype -> (safetensors' name, bytes per element)
DTYPES: dict[str, tuple[str, int]] = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "uint32": ("U32", 4),
    "int32": ("I32", 4),
    "float32": ("F32", 4),
    "uint64": ("U64", 8),
    "int64": ("I64", 8),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
}

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorType:
    """What a tensor is without its values: ``dtype`` as torch names it ("float32") and ``shape``."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values; 0 when a dimension is 0."""
        return DTYPES[self.dtype][1] * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class TensorSpec(TensorType):
    """A tensor's type and the SHA-256 of its raw little-endian contiguous bytes (64 hex digits)."""

    sha256: str


def canonical_json(value: Any) -> bytes:
    """Encode plain JSON data in the one form that is hashed: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    return _ENCODER.encode(value).encode("ascii")


def sha256_hex(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def is_sha256(text: object) -> bool:
    """Whether ``text`` is a full SHA-256 in lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def check_tensor_name(name: object) -> str:
    """Return ``name`` if it can name a stored tensor.

    Raises:
        RegistryError: it is no text, is empty, is not valid Unicode, or is safetensors' reserved
            ``__metadata__``.
    """
    if not isinstance(name, str) or name in {"", "__metadata__"}:
        raise RegistryError(
            f"{name!r} cannot name a tensor: expected a non-empty text other than '__metadata__'. "
            "Pass a state dict as module.state_dict() returns it."
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise RegistryError(f"{name!r} cannot name a tensor: it is not valid Unicode. Rename it.") from None
    return name


def tensor_type(name: str, tensor: Tensor) -> TensorType:
    """The dtype and shape of one tensor, checked to be storable.

    Raises:
        RegistryError: it is not a dense tensor with values (sparse, quantized, nested, meta), or its
            dtype has no place in a safetensors file.
    """
    import torch

    check_tensor_name(name)
    if not isinstance(tensor, torch.Tensor):
        raise RegistryError(
            f"{name!r} is a {type(tensor).__name__}, expected a torch.Tensor. "
            "Pass the state dict alone, not the checkpoint around it."
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise RegistryError(
            f"tensor {name!r} is sparse, quantized, nested or without values (meta); expected a dense tensor. "
            "Convert it with .to_dense() or .dequantize(), or load its values, before hashing or publishing."
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise RegistryError(
            f"tensor {name!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}. Convert it first."
        )
    return TensorType(dtype, tuple(tensor.shape))


def tensor_bytes(name: str, tensor: Tensor) -> memoryview:
    """The raw little-endian contiguous bytes of one tensor, any shape and any device.

    For a contiguous CPU tensor the result is a view of the tensor's own memory, writable and without a
    copy; otherwise it is a view of a contiguous CPU copy.

    Raises:
        RegistryError: see :func:`tensor_type`; or this machine is big-endian.
    """
    import torch

    tensor_type(name, tensor)
    if sys.byteorder != "little":
        raise RegistryError(
            "this machine is big-endian; the registry stores and hashes little-endian values. "
            "Use a little-endian machine (x86-64, arm64)."
        )
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # as_strided, not reshape: a dimension of size 1 may have any stride and still count as contiguous.
    return memoryview(dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy())


def tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    """Type and SHA-256 of one tensor. Raises as :func:`tensor_bytes`."""
    kind = tensor_type(name, tensor)
    return TensorSpec(kind.dtype, kind.shape, hashlib.sha256(tensor_bytes(name, tensor)).hexdigest())


def tensor_specs(state: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Type and SHA-256 of every tensor, sorted by name. Raises as :func:`tensor_bytes`."""
    for name in state:
        check_tensor_name(name)
    return {name: tensor_spec(name, state[name]) for name in sorted(state)}


def digest_of_specs(specs: Mapping[str, TensorSpec]) -> str:
    """The digest of a set of tensors from their specs: 64 hex digits, independent of the order."""
    rows = [[name, specs[name].dtype, list(specs[name].shape), specs[name].sha256] for name in sorted(specs)]
    return sha256_hex(canonical_json(rows))


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """The digest of a state dict: 64 hex digits.

    It depends on names, dtypes, shapes and values (bit for bit: -0.0 is not 0.0), and on nothing else:
    not on insertion order, strides, device, or shared storage.

    Raises:
        RegistryError: a value is not a dense tensor of a storable dtype.
    """
    return digest_of_specs(tensor_specs(state))
