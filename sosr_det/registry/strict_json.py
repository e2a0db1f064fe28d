"""Reading small JSON documents strictly: every field checked, every error names the field by its path."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeVar

from sosr_det.errors import RegistryError
from sosr_det.plain_json import MAX_DEPTH as MAX_DEPTH  # of every document in a registry
from sosr_det.plain_json import parse_json as parse_json

T = TypeVar("T")


class Fields:
    """One JSON object, taken apart field by field; :meth:`close` refuses what nobody asked for."""

    def __init__(self, value: Any, where: str, label: str = "manifest") -> None:
        self._where = where
        self._label = label
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self._error(where, "an object with text keys", value)
        self._left = dict(value)

    def _error(self, path: str, expected: str, value: Any) -> RegistryError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        subject = f"field {path!r}" if path else "the document"
        return RegistryError(f"{self._label}: {subject} is {shown}, expected {expected}.")

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def take(self, key: str, read: Callable[[Any], T], expected: str) -> T:
        """The field ``key`` as ``read`` returns it; ``read`` raises ValueError or TypeError for a wrong value."""
        if key not in self._left:
            raise RegistryError(f"{self._label}: field {self._path(key)!r} is missing, expected {expected}.")
        value = self._left.pop(key)
        try:
            return read(value)
        except (ValueError, TypeError):
            raise self._error(self._path(key), expected, value) from None

    def maybe(self, key: str, read: Callable[[Any], T], expected: str) -> T | None:
        """As :meth:`take`, with null standing for "not known"."""
        return self.take(key, lambda value: None if value is None else read(value), f"{expected}, or null")

    def child(self, key: str) -> Fields:
        """The object under ``key``, to be taken apart in turn."""
        value = self.take(key, lambda v: v, "an object")
        return Fields(value, self._path(key), self._label)

    def keys(self) -> list[str]:
        """The keys that have not been taken yet, sorted."""
        return sorted(self._left)

    def close(self) -> None:
        """Raise :class:`RegistryError` if a field was not taken: an unknown field is a mistake, not noise."""
        if self._left:
            names = ", ".join(repr(self._path(key)) for key in self.keys())
            raise RegistryError(
                f"{self._label}: unknown field {names}. Check the spelling, or put it in 'notes'."
            )


def text(value: Any) -> str:
    """Text that can be written as UTF-8, empty allowed."""
    if not isinstance(value, str):
        raise TypeError
    value.encode("utf-8")
    return str(value)


def word(value: Any) -> str:
    """Text that is not blank."""
    if not text(value).strip():
        raise ValueError
    return str(value)


def one_of(*allowed: str) -> Callable[[Any], str]:
    """One of a few texts."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return read


def number(value: Any) -> float:
    """A finite number as a plain float; a boolean is not a number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError
    return float(value)


def integer(low: int, high: int = (1 << 63) - 1) -> Callable[[Any], int]:
    """A whole number between ``low`` and ``high``, both included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
            raise ValueError
        return int(value)

    return read


def list_of(
    read: Callable[[Any], T], least: int = 0, most: int | None = None
) -> Callable[[Any], tuple[T, ...]]:
    """A list (or tuple) of at least ``least`` and at most ``most`` values."""

    def read_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)) or len(value) < least:
            raise ValueError
        if most is not None and len(value) > most:
            raise ValueError
        return tuple(read(item) for item in value)

    return read_all


def dict_of(read: Callable[[Any], T]) -> Callable[[Any], dict[str, T]]:
    """An object whose keys are texts that are not blank and whose values ``read`` accepts."""

    def read_all(value: Any) -> dict[str, T]:
        if not isinstance(value, dict):
            raise TypeError
        return {word(key): read(item) for key, item in value.items()}

    return read_all


def plain(value: Any) -> Any:
    """Any JSON data: null, booleans, texts, finite numbers, and lists and objects of these."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return number(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return dict_of(plain)(value)
