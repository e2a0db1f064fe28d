"""Quoting what a file says in messages: not at any length."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200


def shown(value: object, longest: int = 80) -> str:
    """``repr`` of a value that may be of any size and depth, cut to ``longest`` characters."""
    if isinstance(value, bytes):
        value = value[: 4 * longest].decode("utf-8", "backslashreplace")
    try:
        text = repr(value[: 4 * longest]) if isinstance(value, str) else _REPR.repr(value)
    except ValueError:  # a whole number of more digits than Python converts
        text = f"<{type(value).__name__} of absurd size>"
    return text if len(text) <= longest else text[: longest - 3] + "..."


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names with commas; of many only the first, and how many more there are."""
    every = list(names)
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
