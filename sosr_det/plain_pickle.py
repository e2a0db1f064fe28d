"""Reading pickles that others wrote: plain Python data and numpy arrays of numbers, and nothing else.

A pickle names the classes and functions that it wants called, and Python's own reader calls them. Here the few names
that numpy writes are answered by stand-ins, which only collect values and check them; :func:`finish` then makes the
real objects. Even numpy's own classes may not be handed to an untrusted pickle: ``numpy.dtype`` can be put into a
state that makes plain bytes count as object pointers, and reading such an array crashes the process or worse.

Source: https://docs.python.org/3/library/pickle.html#restricting-globals
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

from sosr_det.pickle_memo import check_memo
from sosr_det.plain_unpickler import StepwiseUnpickler, plain_bytearray, plain_frozenset, plain_set

_NUMERIC = re.compile(r"b1|i[1248]|u[1248]|f[248]|c8|c16")
# Where numpy 1 and numpy 2 say that these functions live.
_CORES = ("numpy._core", "numpy.core")


class StandIn:
    """What a pickle gets instead of an object of a class that it names."""

    def real(self) -> Any:
        """The object that this one stands for. Raises UnpicklingError when the pickle gave it no values."""
        raise UnpicklingError(f"a {type(self).__name__} without values")


class Dtype(StandIn):
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

    def real(self) -> Any:
        """The real dtype."""
        import numpy as np

        return np.dtype(self.order + self.code)

    def values(self, data: object, count: int) -> Any:
        """``count`` values of ``data`` in the machine's byte order."""
        import numpy as np

        raw = data.encode("latin-1") if isinstance(data, str) else data
        dtype = self.real()
        if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * dtype.itemsize:
            raise UnpicklingError("a numpy array's bytes do not fit its shape")
        return np.frombuffer(bytes(raw), dtype).astype(dtype.newbyteorder("="))


class Array(StandIn):
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

    def real(self) -> Any:
        """The real array. Raises UnpicklingError when no values came."""
        return super().real() if self._values is None else self._values


class Function:
    """A function that a pickle may call and cannot alter: unlike a real one it takes no attributes."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work

    def __call__(self, *arguments: object) -> Any:
        return self._work(*arguments)

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("a function has no state")


def reconstruct(kind: object, shape: object, typecode: object) -> Array:
    """Stands in for numpy's function that makes an empty array; its values follow."""
    return Array()


def scalar(dtype: object, data: object) -> Any:
    """Stands in for numpy's function that makes a scalar."""
    if not isinstance(dtype, Dtype):
        raise UnpicklingError("a numpy scalar without a plain dtype")
    return dtype.values(data, 1)[0]


def _frombuffer(buffer: object, dtype: object, shape: object, order: object) -> Array:
    """Stands in for the function that makes an array in pickle protocol 5."""
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def empty_bytes() -> bytes:
    """Pickle protocol 2 writes b"" as a call of ``bytes`` without arguments: an empty array's content."""
    return b""


def _encode(text: object, encoding: object) -> bytes:
    """Pickle protocol 2 writes bytes as text that is to be encoded."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnpicklingError("unexpected text encoding")
    return text.encode("latin-1")


def numpy_standins() -> list[tuple[Callable[..., Any], str]]:
    """(stand-in, name that it answers to in a pickle) for what numpy writes."""
    pairs: list[tuple[Callable[..., Any], str]] = [
        (Dtype, "numpy.dtype"),
        (Array, "numpy.ndarray"),
        (empty_bytes, "builtins.bytes"),
    ]
    for core in _CORES:
        pairs += [(reconstruct, f"{core}.multiarray._reconstruct"), (scalar, f"{core}.multiarray.scalar")]
    return pairs


def plain_answers() -> dict[str, Any]:
    """What a restricted unpickler's ``find_class`` answers, by ``module.name``: all that plain data needs."""
    answers = {name: each for each, name in numpy_standins()}
    answers |= {f"{core}.numeric._frombuffer": _frombuffer for core in _CORES}
    answers |= {"__builtin__.bytes": empty_bytes, "_codecs.encode": _encode}
    for module in ("builtins", "__builtin__"):
        makers = {"set": plain_set, "frozenset": plain_frozenset, "bytearray": plain_bytearray}
        answers |= {f"{module}.{name}": each for name, each in makers.items()}
        answers[f"{module}.complex"] = complex
    return {name: each if isinstance(each, type) else Function(each) for name, each in answers.items()}


class _PlainUnpickler(StepwiseUnpickler):
    """The reader, which asks :meth:`find_class` for every name."""

    _answers = plain_answers()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._answers[f"{module}.{name}"]
        except KeyError:
            raise UnpicklingError(f"it wants to use {module}.{name}, which could run code") from None


def load_plain(content: bytes, encoding: str = "ASCII") -> Any:
    """Unpickle plain data: None, booleans, numbers, texts, bytes, lists, tuples, dicts, sets, numpy arrays of numbers.

    Args:
        content: the pickle.
        encoding: of the text in pickles that Python 2 wrote; "latin1" for numpy arrays of Python 2.

    Raises:
        UnpicklingError: it names any other class or function, would fill the memory, or has a key that is no
            text, number or short tuple of these; nothing was called or imported.
        Exception: whatever a damaged pickle makes Python's reader raise.
    """
    check_memo(content)
    return finish(_PlainUnpickler(io.BytesIO(content), encoding=encoding).load())


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
        if not isinstance(item, (dict, list, tuple, StandIn)):
            return item
        if id(item) in done:
            return done[id(item)]
        alive.append(item)
        done[id(item)] = item
        if isinstance(item, StandIn):
            done[id(item)] = item.real()
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
