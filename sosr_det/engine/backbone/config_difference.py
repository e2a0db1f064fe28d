"""A changed config as a small file that inherits the original and holds only the differences."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sosr_det.engine.configs import find_config
from sosr_det.errors import ConfigError

_DELETE = "_delete_"
_WIDTH = 110


def overrides(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a config that inherits ``base`` must say to become ``new``: nested dicts of the changed values alone.

    A list is given whole. ``_delete_`` stands where merging would keep something that ``new`` does not have.
    """
    changed: dict[str, Any] = {}
    for key, value in new.items():
        if key in base and same(base[key], value):
            continue
        before = base.get(key)
        if not isinstance(value, Mapping):
            changed[key] = value
        elif isinstance(before, Mapping) and not before.keys() - value.keys():
            changed[key] = overrides(before, value)
        elif key in base:
            changed[key] = {_DELETE: True, **value}
        else:
            changed[key] = dict(value)
    return changed


def same(one: Any, other: Any) -> bool:
    """Equality in type too: a list is no tuple, True is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def base_reference(name: str, out: Path) -> str | None:
    """What ``_base_`` of a file at ``out`` must say to mean the config ``name``; None where it cannot be inherited.

    That is so for generated configs, which have no file, and for MMEngine's Python-style configs.

    Raises:
        ConfigError: no such config.
    """
    from mmengine.config import Config

    path = find_config(name).resolve()
    if path.parent.name.startswith("sosr_det_configs_") or Config._is_lazy_import(str(path)):
        return None
    if "::" in name:
        return name if name.endswith(".py") else f"{name}.py"
    return Path(os.path.relpath(path, out.resolve().parent)).as_posix()


def config_source(values: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """Python source of a config's top-level values, written as OpenMMLab's configs are.

    Args:
        values: plain data: dicts, lists, tuples, strings, numbers, bools, None.
        notes: string value -> comment to put behind the lines that hold it.

    Raises:
        ConfigError: a value that is no plain data.
    """
    lines = [f"{key} = {_source(value, 0, len(key) + 3)}" for key, value in values.items()]
    text = "\n".join(lines) + "\n"
    for value, note in (notes or {}).items():
        quoted = _source(value, 0, 0)
        text = "".join(
            f"{line}  # {one_line(note)}\n" if quoted in line else f"{line}\n" for line in text.splitlines()
        )
    return text


def one_line(text: str) -> str:
    """``text`` as it may stand in a comment: without line breaks and other control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def text_difference(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> list[str]:
    """Lines of a unified diff of two configs, of the top-level values that differ."""
    keys = [key for key in after if not same(before.get(key), after.get(key)) or key not in before]
    keys += [key for key in before if key not in after]
    texts = [
        config_source({key: values[key] for key in keys if key in values}).splitlines()
        for values in (before, after)
    ]
    return list(difflib.unified_diff(*texts, fromfile=name, tofile=f"{name} (swapped)", lineterm="", n=2))


def write_config(text: str, out: Path, expected: Mapping[str, Any]) -> bool:
    """Write ``text`` to ``out`` if it loads as ``expected``; returns whether it did, and writes nothing otherwise.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from mmengine.config import Config

    temporary = out.with_name(f"{out.stem}.{os.getpid()}.tmp.py")
    try:
        temporary.write_text(text)
        try:
            loaded = Config.fromfile(temporary, import_custom_modules=False).to_dict()
        except Exception:  # a base may fail in any way; then the other form is tried
            return False
        if not same(_without_scope(loaded), _without_scope(expected)):
            return False
        os.replace(temporary, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _without_scope(value: Any) -> Any:
    """MMEngine notes in every dict of a base from another package which package that was."""
    if isinstance(value, Mapping):
        return {key: _without_scope(item) for key, item in value.items() if key != "_scope_"}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_scope, value))
    return value


def _source(value: Any, indent: int, used: int) -> str:
    flat = _flat(value)
    if len(flat) + indent + used < _WIDTH or not isinstance(value, (Mapping, list, tuple)) or not value:
        return flat
    inner = " " * (indent + 4)
    if isinstance(value, Mapping):
        named = all(isinstance(key, str) and key.isidentifier() for key in value)
        items = [
            f"{key}={_source(item, indent + 4, len(key) + 2)}"
            if named
            else f"{key!r}: {_source(item, indent + 4, len(repr(key)) + 3)}"
            for key, item in value.items()
        ]
        opening, closing = ("dict(", ")") if named else ("{", "}")
    else:
        items = [_source(item, indent + 4, 1) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    return "".join([opening, "\n", *(f"{inner}{item},\n" for item in items), " " * indent, closing])


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f"dict({', '.join(f'{key}={_flat(item)}' for key, item in value.items())})"
        return f"{{{', '.join(f'{key!r}: {_flat(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        quoted = repr(value)
        return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted else quoted
    if value is None or isinstance(value, (bool, int, float)):
        return (
            repr(value)
            if value == value and value not in (float("inf"), -float("inf"))
            else f"float({str(value)!r})"
        )
    raise ConfigError(f"a config value of type {type(value).__name__} cannot be written down: {value!r}")
