"""JSON that others wrote, read strictly: no NaN, no key twice, a bounded depth."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

# Levels of lists and objects inside each other. What sosr-det writes needs about ten; checking takes several Python
# calls a level, and a thousand of those end in a RecursionError.
MAX_DEPTH = 64


class NotJsonError(ValueError):
    """What Python's reader takes for JSON and the standard does not."""


def parse_json(data: bytes) -> Any:
    """Decode UTF-8 JSON; NaN, Infinity, duplicate keys and more than MAX_DEPTH levels are errors.

    Raises:
        ValueError: not such a document; the message says why.
    """
    try:
        document = DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(document)
    return document


def _check_depth(document: Any) -> None:
    level, depth = [document], 0
    while level := [part for each in level for part in _parts(each)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested too deeply (more than {MAX_DEPTH} levels)")


def _parts(value: Any) -> Iterable[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in inside if isinstance(part, (dict, list))]


def _no_constant(text: str) -> Any:
    raise NotJsonError(f"it holds {text}, which is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise NotJsonError("it holds a key twice")
    return table


DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
