"""Reading single settings out of a config's text without ever running it: config files are code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

_LENGTH_LIMIT = 1 << 20  # characters
_DEPTH_LIMIT = 60


def config_values(text: str) -> dict[str, Any]:
    """The top-level settings of a resolved config, as plain data: numbers, texts, lists, tuples and dicts.

    ``dict(a=1)`` and ``-1`` are understood; what is anything but a literal (a call, a name, a comprehension) becomes
    None. A text that is no Python, is longer than a megabyte or is nested absurdly gives an empty dict: callers say
    then that the setting is not known.
    """
    if len(text) > _LENGTH_LIMIT or "\0" in text:
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                values[target.id] = _value(statement.value, 0)
    return values


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside plain data, outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from walk(item)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > _DEPTH_LIMIT:
        return None
    if isinstance(node, ast.Constant):
        return node.value
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
    ):
        number = node.operand.value
        return -number if isinstance(number, (int, float)) else None
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item, depth + 1) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {k.value: _value(v, depth + 1) for k, v in pairs if isinstance(k, ast.Constant)}
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "dict"
        and not node.args
    ):
        return {word.arg: _value(word.value, depth + 1) for word in node.keywords if word.arg is not None}
    return None
