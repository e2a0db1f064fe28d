"""Reading pickles with torch tensors in them, without torch and without calling what they name.

``pickle.dump`` of a tensor (not ``torch.save``) writes a call of a torch function with the tensor's layout, and the
storage as bytes: a file of ``torch.save``'s old format, which is five pickles and the raw numbers. Torch's own reader
of these bytes unpickles them freely. Here stand-ins collect the values, as in :mod:`sosr_det.plain_pickle`, the inner
pickles are read with nothing but the names of storage types allowed, and tensors come out as numpy arrays.

Formats: ``torch/_tensor.py`` (``Tensor.__reduce_ex__``), ``torch/storage.py`` (``_load_from_bytes``), and
``torch/serialization.py`` (``_legacy_save``).
"""

from __future__ import annotations

import io
import math
import re
from pickle import UnpicklingError
from typing import Any

from sosr_det.pickle_memo import check_memo
from sosr_det.plain_pickle import Function, StandIn, finish, plain_answers
from sosr_det.plain_unpickler import StepwiseUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# Name of the storage's class -> numpy's name of what it holds.
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _StorageType(StandIn):
    """Stands in for a storage's class; a name, not to be called or altered."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("a storage type has no state")


class _Storage(StandIn):
    """A storage's numbers, flat."""

    __slots__ = ("values",)

    def __init__(self, values: Any) -> None:
        self.values = values

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("a storage has no state of its own")

    def real(self) -> Any:
        return self.values


_STORAGE_TYPES = {f"torch.{name}": _StorageType(name) for name in _DTYPES}


class _StorageUnpickler(StepwiseUnpickler):
    """Reads the five pickles of one storage."""

    key: str
    name: str
    count: int

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STORAGE_TYPES[f"{module}.{name}"]
        except KeyError:
            raise UnpicklingError(
                f"a tensor's storage wants to use {module}.{name}, which is no storage of plain numbers"
            ) from None

    def persistent_load(self, saved: Any) -> Any:
        if not (
            isinstance(saved, tuple)
            and len(saved) in (5, 6)
            and saved[0] == "storage"
            and type(saved[1]) is _StorageType
            and type(saved[2]) is str
            and type(saved[4]) is int
            and saved[5:] in ((), (None,))
        ):
            raise UnpicklingError("unexpected description of a tensor's storage")
        self.key, self.name, self.count = saved[2], saved[1].name, saved[4]
        return saved[1]


# The five pickles as torch has written them since 2017, up to the raw numbers; anything else is unpickled.
_USUAL = re.compile(
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.\x80\x02M\xe9\x03\."  # magic number, protocol
    rb"\x80\x02}q\x00\(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88"
    rb"X\n\x00\x00\x00type_sizesq\x03}q\x04\(X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04"
    rb"X\x04\x00\x00\x00longq\x07K[\x04\x08]uu\."
    rb"\x80\x02\(X\x07\x00\x00\x00storageq\x00ctorch\n([A-Za-z0-9]{1,30})\nq\x01X(.\x00\x00\x00[0-9]{1,40})q\x02"
    rb"X.\x00\x00\x00[a-z0-9:]{1,20}q\x03(?:K(.)|M(..)|J(...[\x00-\x7f]))Ntq\x04Q\."  # type, key, device, length
    rb"\x80\x02]q\x00X\2q\x01a\.",
    re.DOTALL,
)


def _load_from_bytes(content: object) -> _Storage:
    """Stands in for ``torch.storage._load_from_bytes``."""
    import numpy as np

    if type(content) is not bytes:
        raise UnpicklingError("a tensor's storage is not bytes")
    usual = _USUAL.match(content)
    if usual is not None and (name := usual[1].decode("ascii")) in _DTYPES:
        count, start = int.from_bytes(usual[3] or usual[4] or usual[5], "little"), usual.end()
    else:
        name, count, start = _described(content)
    dtype = np.dtype(_DTYPES[name])
    if int.from_bytes(content[start : start + 8], "little") != count or len(content) < start + 8:
        raise UnpicklingError("a tensor's storage has another length than it says")
    start += 8
    if len(content) - start != count * dtype.itemsize:
        raise UnpicklingError("a tensor's storage is truncated")
    if name == "BFloat16Storage":
        upper_half = np.frombuffer(content, dtype, offset=start).astype(np.uint32)
        return _Storage((upper_half << 16).view(np.float32))
    if name == "BoolStorage":
        return _Storage(np.frombuffer(content, np.uint8, offset=start) != 0)
    return _Storage(np.frombuffer(content, dtype, offset=start))


def _described(content: bytes) -> tuple[str, int, int]:
    """Type and length of a storage, and where its numbers start, by unpickling what comes before them."""
    stream = io.BytesIO(content)
    end = 0
    parts, readers = [], []
    for _ in range(5):
        end = check_memo(content, end)
        readers.append(_StorageUnpickler(stream))
        parts.append(readers[-1].load())
    magic, protocol, system, storage, keys = parts
    if magic != _MAGIC or protocol != _PROTOCOL or type(system) is not dict:
        raise UnpicklingError("a tensor's storage is not in torch.save's old format")
    if not system.get("little_endian", True):
        raise UnpicklingError("a tensor's storage was written on a big-endian machine")
    described = readers[3]
    if type(storage) is not _StorageType or type(keys) is not list or keys != [described.key]:
        raise UnpicklingError("a tensor's storage holds something else than one storage")
    return described.name, described.count, stream.tell()


class Tensor(StandIn):
    """Stands in for ``torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, …)``."""

    def __init__(self, *arguments: object) -> None:
        import numpy as np

        if len(arguments) < 6 or not isinstance(arguments[0], _Storage):
            raise UnpicklingError("unexpected arguments of a tensor")
        flat, (offset, size, stride) = arguments[0].values, arguments[1:4]
        if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 16):
            raise UnpicklingError("unexpected shape of a tensor")
        if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise UnpicklingError("unexpected shape of a tensor")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # The second: a stride of 0 could make any number of elements out of one.
        if math.prod(size) and (last >= len(flat) or math.prod(size) > len(flat)):
            raise UnpicklingError("a tensor reaches beyond its storage")
        if math.prod(size) == 0:
            self._values = np.zeros(size, flat.dtype)
            return
        steps = [step * flat.itemsize for step in stride]
        # Not copied: many small calls on one large storage would grow far beyond the file.
        self._values = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("a tensor's attributes are not read")

    def real(self) -> Any:
        """The tensor as a read-only numpy array; bfloat16 as float32."""
        return self._values


class Boxes(StandIn):
    """Stands in for ``mmdet.structures.bbox.HorizontalBoxes``: the tensor in it."""

    _tensor: Tensor | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or set(state) != {"tensor"} or not isinstance(state["tensor"], Tensor):
            raise UnpicklingError("unexpected state of MMDetection's boxes")
        self._tensor = state["tensor"]

    def real(self) -> Any:
        """The boxes as a numpy array."""
        return super().real() if self._tensor is None else self._tensor.real()


def _size(values: object) -> tuple[int, ...]:
    """Stands in for ``torch.Size``."""
    if not isinstance(values, (tuple, list)) or not all(type(n) is int for n in values):
        raise UnpicklingError("unexpected torch.Size")
    return tuple(values)


def _ordered_dict(*arguments: object) -> dict[Any, Any]:
    """Stands in for ``collections.OrderedDict``; its items follow."""
    if arguments:
        raise UnpicklingError("unexpected arguments of an OrderedDict")
    return {}


class _TensorUnpickler(StepwiseUnpickler):
    _answers = plain_answers() | {
        "torch._utils._rebuild_tensor_v2": Tensor,
        "torch.storage._load_from_bytes": Function(_load_from_bytes),
        "torch.Size": Function(_size),
        "collections.OrderedDict": Function(_ordered_dict),
        "mmdet.structures.bbox.horizontal_boxes.HorizontalBoxes": Boxes,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._answers[f"{module}.{name}"]
        except KeyError:
            raise UnpicklingError(f"it wants to use {module}.{name}, which could run code") from None


def load_with_tensors(content: bytes) -> Any:
    """Unpickle plain data (:func:`sosr_det.plain_pickle.load_plain`) and dense tensors of numbers.

    Tensors, also those of a GPU, and MMDetection's ``HorizontalBoxes`` come back as read-only numpy arrays.

    Raises:
        UnpicklingError: it names any other class or function, or would fill the memory; nothing was called or
            imported.
        Exception: whatever a damaged pickle makes Python's reader raise.
    """
    check_memo(content)
    return finish(_TensorUnpickler(io.BytesIO(content)).load())
