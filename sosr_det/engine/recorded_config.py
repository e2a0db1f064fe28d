"""The config in a run record, read as data: a record comes with a run's folder, which may be somebody else's.

MMEngine reads a config text by running it. A record holds the dump of a resolved config, which needs no running: it
assigns literals and calls of ``dict``. Data alone is not harmless either: MMEngine's registries take a ``type`` that
they do not know for the dotted name of any Python function, import it and call it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from sosr_det.engine.configs import find_registered, walk_dicts
from sosr_det.errors import ConfigError

_NUMBERS = {"inf": float("inf"), "nan": float("nan")}  # as a dump has them
_BUILT = ("model", "train_dataloader", "val_dataloader", "test_dataloader")


def recorded_config(text: str, source: str, built: Sequence[str] = _BUILT) -> Any:
    """The ``mmengine.config.Config`` that a run record's ``config_text`` holds; nothing in it is run or imported.

    Args:
        text: as ``Config.pretty_text`` wrote it.
        source: the record's path, for error messages.
        built: the sections that something is built from, whose types must be registered.

    Raises:
        ConfigError: it is more than assignments of literals, or its model or data name a type that is not registered.
    """
    from mmengine.config import Config

    settings = recorded_values(text, source)
    for section in built:
        for node in walk_dicts(settings.get(section)):
            kind = node.get("type")
            if kind is not None and (not isinstance(kind, str) or find_registered(kind) is None):
                raise ConfigError(
                    f"{source}: {section} has the type {kind!r}, which is not registered here, and a record's names "
                    "are not imported. If it is your own class, import its module in Python first and call "
                    "sosr_det.engine.recompute.measure_unrecorded_runs."
                )
    return Config(settings)


def recorded_values(text: str, source: str) -> dict[str, Any]:
    """The same as plain values that nothing may be built from: the types in it are not looked at.

    Raises:
        ConfigError: it is more than assignments of literals.
    """
    try:
        return dict(map(_assignment, ast.parse(text).body))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{source} holds a config that cannot be read as data ({error}). It was not run: only configs that "
            "`sosr-det train` recorded are read. Train with --dynamics instead."
        ) from error


def _assignment(node: ast.stmt) -> tuple[str, Any]:
    if (
        not isinstance(node, ast.Assign)
        or len(node.targets) != 1
        or not isinstance(node.targets[0], ast.Name)
    ):
        raise ValueError(f"line {node.lineno} is no assignment to a name")
    return node.targets[0].id, _value(node.value)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return _dict_call(node)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(map(_value, node.elts))
    if isinstance(node, ast.Name) and node.id in _NUMBERS:
        return _NUMBERS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -_value(node.operand)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"line {node.lineno} holds {ast.unparse(node)[:80]!r}, which is no literal"
        ) from None


def _dict_call(node: ast.Call) -> dict:
    """``dict(a=1)``, and for keys that are no identifiers ``dict({'a-b': 1})``."""
    found: dict = {}
    for part in [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)]:
        inner = _value(part)
        if not isinstance(inner, dict):
            raise ValueError(f"line {node.lineno} makes a dict of something else")
        found |= inner
    return found | {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
