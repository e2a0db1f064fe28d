"""Harmless stand-ins for the classes and functions that a training checkpoint's pickle calls.

MMEngine's checkpoints hold numpy arrays and ``HistoryBuffer`` objects, and the latter's pickle asks for the
builtin ``getattr``. The real ones may not be handed to an untrusted pickle: with ``getattr`` it can reach any
function, ``numpy.dtype`` can be put into a state that makes plain bytes count as object pointers, and
``HistoryBuffer`` lets a file replace its methods. The stand-ins only collect values and check them;
:func:`finish` then makes the real objects.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

_NUMERIC = re.compile(r"b1|i[1248]|u[1248]|f[248]|c8|c16")
# Where numpy 1 and numpy 2 say that these functions live.
_CORES = ("numpy._core", "numpy.core")
_LOCK = threading.Lock()


class Dtype:
    """Stands in for ``numpy.dtype(spec, align, copy)`` of a number or boolean type."""

    def __init__(self, spec: object, align: object = False, copy: object = True) -> None:
        text = spec.decode("ascii") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or _NUMERIC.fullmatch(text) is None:
            raise UnpicklingError(f"numpy dtype {spec!r} is not a plain number type")
        self.code = text
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 8 or state[1] not in ("<", ">", "|", "="):
            raise UnpicklingError("unexpected state of a numpy dtype")
        if any(part is not None for part in state[2:5]):
            raise UnpicklingError("structured numpy dtypes are not allowed")
        self.order = state[1]

    def dtype(self) -> Any:
        """The real dtype."""
        import numpy as np

        return np.dtype(self.order + self.code)

    def values(self, data: object, count: int) -> Any:
        """``count`` values of ``data`` in the machine's byte order."""
        import numpy as np

        raw = data.encode("latin-1") if isinstance(data, str) else data
        dtype = self.dtype()
        if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * dtype.itemsize:
            raise UnpicklingError("a numpy array's bytes do not fit its shape")
        return np.frombuffer(bytes(raw), dtype).astype(dtype.newbyteorder("="))


class Array:
    """Stands in for ``numpy.ndarray`` while it is being unpickled."""

    _values: Any = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpicklingError("unexpected state of a numpy array")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, Dtype) or not isinstance(shape, tuple) or len(shape) > 32:
            raise UnpicklingError("unexpected state of a numpy array")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise UnpicklingError("unexpected shape of a numpy array")
        flat = dtype.values(data, math.prod(shape))
        self._values = flat.reshape(shape, order="F" if fortran else "C")

    def array(self) -> Any:
        """The real array. Raises UnpicklingError when no values came."""
        if self._values is None:
            raise UnpicklingError("a numpy array without values")
        return self._values


def _reconstruct(kind: object, shape: object, typecode: object) -> Array:
    return Array()


def _scalar(dtype: object, data: object) -> Any:
    if not isinstance(dtype, Dtype):
        raise UnpicklingError("a numpy scalar without a plain dtype")
    return dtype.values(data, 1)[0]


def _empty_bytes() -> bytes:
    """Pickle protocol 2 writes b"" as a call of ``bytes`` without arguments: an empty array's content."""
    return b""


class History:
    """Stands in for ``mmengine.logging.HistoryBuffer`` while it is being unpickled."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise UnpicklingError("unexpected state of a HistoryBuffer")
        self.max_length = state.get("max_length")
        self.log = state.get("_log_history")
        self.count = state.get("_count_history")
        if type(self.max_length) is not int or not (
            isinstance(self.log, Array) and isinstance(self.count, Array)
        ):
            raise UnpicklingError("unexpected state of a HistoryBuffer")

    def buffer(self) -> Any:
        """The real object, with the statistics methods of this process instead of the file's."""
        from mmengine.logging import HistoryBuffer

        buffer = HistoryBuffer(max_length=self.max_length)
        buffer._log_history, buffer._count_history = self.log.array(), self.count.array()
        return buffer


def _statistics_method(owner: object, name: object) -> str:
    """Stands in for ``getattr``, with which a HistoryBuffer's pickle names its own methods; they are not used."""
    if owner is not History or not isinstance(name, str):
        raise UnpicklingError("getattr on anything but a HistoryBuffer is not allowed")
    return name


@contextmanager
def only_standins() -> Iterator[None]:
    """Within the block torch's restricted unpickler admits these stand-ins and torch's own defaults, no more.

    What other code added to torch's process-wide allow-list is set aside meanwhile and put back afterwards.
    """
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    with _LOCK:
        others = get_safe_globals()
        clear_safe_globals()
        add_safe_globals(_named_standins())
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(others)


def _named_standins() -> list[tuple[Callable[..., Any], str]]:
    """(stand-in, name that it answers to in a pickle)."""
    pairs: list[tuple[Callable[..., Any], str]] = [
        (Dtype, "numpy.dtype"),
        (Array, "numpy.ndarray"),
        (History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_statistics_method, "builtins.getattr"),
        (_empty_bytes, "builtins.bytes"),
    ]
    for core in _CORES:
        pairs += [(_reconstruct, f"{core}.multiarray._reconstruct"), (_scalar, f"{core}.multiarray.scalar")]
    return pairs


def finish(value: Any) -> Any:
    """Replace every stand-in in dicts, lists and tuples, at any depth, by the real object.

    Dicts and lists are changed in place; what was shared stays shared.

    Raises:
        UnpicklingError: a stand-in was never given its values.
        RecursionError: the nesting is absurdly deep.
    """
    done: dict[int, Any] = {}
    alive: list[Any] = []  # an id is only unique while its object lives

    def visit(item: Any) -> Any:
        if not isinstance(item, (dict, list, tuple, Array, Dtype, History)):
            return item
        if id(item) in done:
            return done[id(item)]
        alive.append(item)
        done[id(item)] = item
        if isinstance(item, Array):
            done[id(item)] = item.array()
        elif isinstance(item, Dtype):
            done[id(item)] = item.dtype()
        elif isinstance(item, History):
            done[id(item)] = item.buffer()
        elif isinstance(item, list):
            for index, part in enumerate(item):
                item[index] = visit(part)
        elif isinstance(item, dict):
            for key, part in item.items():
                item[key] = visit(part)
        else:
            parts = [visit(part) for part in item]
            if any(new is not old for new, old in zip(parts, item, strict=True)):
                done[id(item)] = tuple(parts)
        return done[id(item)]

    return visit(value)
