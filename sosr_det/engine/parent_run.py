"""The run that another one comes after: told, and recorded as ``parent`` with every setting that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.config_comparison import Difference, config_differences, difference_lines
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import CheckpointError, ConfigError

__all__ = [
    "Difference",
    "config_differences",
    "describe_parent",
    "note_parent",
    "parent_record",
    "tell_parent",
]


def tell_parent(cfg: Any, parent: Path | None, replaced: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """Compare a run that begins with its parent: the one that was named, or the one that it replaces.

    Args:
        cfg: the config in use, resolved and with its hooks.
        parent: ``--parent``.
        replaced: ``--overwrite``.

    Returns:
        what run.json records as ``parent``, and lines for the terminal; None and no lines where there is no parent.

    Raises:
        CheckpointError: ``parent`` holds no run.
    """
    if parent is not None:
        found = parent_record(Path(parent), cfg, resuming=False)
        return found, describe_parent(found, "follows")
    work_dir = Path(cfg.work_dir)
    if not replaced or not (work_dir / FILE_NAME).is_file():
        return None, []
    try:
        found = parent_record(work_dir, cfg, resuming=False)
    except CheckpointError:  # a damaged record is no reason against replacing the run
        return None, []
    return None, describe_parent(found, "replaces")  # it will be gone, so it is no run to come back to


def note_parent(runner: Any, parent: dict[str, Any] | None) -> None:
    """Have it recorded: not in the config, whose digest would be another for the same recipe."""
    for hook in runner.hooks if parent is not None else ():
        if isinstance(getattr(hook, "record", None), dict):
            hook.record["parent"] = parent


def parent_record(parent: Path, cfg: Any, *, resuming: bool) -> dict[str, Any]:
    """Compare with a parent run.

    Args:
        parent: the folder of a run (or its ``run.json``, or a checkpoint in it): a run that is continued or replaced,
            or any other.
        cfg: the config in use, resolved and with its hooks.
        resuming: the parent is the run itself; where its weights came from is not compared then.

    Returns:
        For run.json: ``path``; ``config_digest`` and ``config_name`` of the parent; ``differences``, each ``{"key",
        "old", "new", "changes_training"}`` with values as text. ``differences`` is None where the parent's config
        cannot be read here, and ``unreadable`` says why.

    Raises:
        CheckpointError: no run there, or its record is damaged.
    """
    if parent.is_file() and parent.suffix == ".pth":  # a checkpoint of the run
        parent = parent.parent
    record = read_run_record(parent)
    source = str(parent / FILE_NAME if parent.is_dir() else parent)
    text = record.get("config_text")
    found: dict[str, Any] = {
        "path": str(parent if parent.is_dir() else parent.parent),
        "config_name": record.get("config_name"),
        "config_digest": record.get("config_digest"),
        "differences": None,
    }
    if not isinstance(text, str):
        raise CheckpointError(
            f"{source} holds no config (config_text), so there is nothing to compare this run with."
        )
    try:
        differences = config_differences(text, cfg, resuming=resuming, source=source)
    except ConfigError as error:
        found["unreadable"] = str(error)
    else:
        found["differences"] = [each.to_dict() for each in differences]
        found["lines"] = difference_lines(differences)
    return found


def describe_parent(found: dict[str, Any], doing: str) -> list[str]:
    """Lines for the terminal about what :func:`parent_record` found; takes the lines out of ``found``.

    Args:
        found: changed: ``lines`` is taken out, so that the rest can be recorded.
        doing: ``resumes``, ``replaces`` or ``follows``.
    """
    lines = found.pop("lines", None)
    head = f"this run {doing} {found['path']}"
    if lines is None:
        return [f"{head}, whose config cannot be compared: {found.get('unreadable')}"]
    if not lines:
        return [f"{head} with the same config"]
    return [
        f"{head} with {len(lines)} other setting{'s' if len(lines) > 1 else ''}:",
        *(f"  {line}" for line in lines),
    ]
