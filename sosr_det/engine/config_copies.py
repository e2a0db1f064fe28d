"""Copies of a config's text that load from another folder than the original's."""

from __future__ import annotations

import ast
import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from sosr_det.errors import ConfigError


def rebased(text: str, old_folder: Path, new_folder: Path | None = None) -> str:
    """``text`` with the relative paths of its ``_base_`` rewritten, so that it means the same in another place.

    Args:
        text: source of a config.
        old_folder: where the relative paths start from now.
        new_folder: where they shall start from; None makes them absolute. Bases in another package (``mmdet::…``)
            stay as they are.

    Raises:
        ConfigError: ``_base_`` is not a string or a list of strings.
    """
    lines = text.splitlines(keepends=True)
    for node in reversed(_base_strings(text)):
        old = node.value
        if "::" in old or os.path.isabs(old):
            continue
        target = (Path(old_folder) / old).resolve()
        new = target if new_folder is None else Path(os.path.relpath(target, Path(new_folder).resolve()))
        line = lines[node.lineno - 1].encode()  # ast counts columns in UTF-8 bytes
        quoted = f'"{new.as_posix()}"'.encode()
        lines[node.lineno - 1] = (line[: node.col_offset] + quoted + line[node.end_col_offset :]).decode()
    return "".join(lines)


def _base_strings(text: str) -> list[ast.Constant]:
    """The string constants of the config's ``_base_``, in the order of the text."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "_base_" for t in node.targets):
            value = node.value
            items = value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
            if not all(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in items):
                raise ConfigError("_base_ must be a path or a list of paths, written as plain strings")
            return items
    return []


def temporary_copy(name: str, text: str) -> Path:
    """Write ``text`` as ``NAME.py`` for the life of this process.

    mmengine reads configs from files only. Each process has a private folder, so that concurrent ones (the ranks of
    torchrun) can't meet and nobody else can place code there.
    """
    path = _private_folder() / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@functools.cache
def _folder_of_process(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sosr_det_configs_"))
    atexit.register(_remove, folder, process)
    return folder


def _private_folder() -> Path:
    folder = _folder_of_process(os.getpid())
    folder.mkdir(mode=0o700, exist_ok=True)  # long-lived processes see their temporary files cleaned up
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child inherits the exit handlers
        shutil.rmtree(folder, ignore_errors=True)
