"""Which checkpoint a run goes on from: the newest whole one, with a word about each that is not."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sosr_det.engine.checkpoints.atomic_file import DIGEST, check_file, write_text
from sosr_det.engine.checkpoints.names import DAMAGED, POINTER, training_checkpoints
from sosr_det.errors import CheckpointError

_LONGEST_PATH = 4096  # characters
_WEIGHTS_ONLY = "holds weights only, without the optimizer's state"


@dataclass
class Choice:
    """A checkpoint to go on from.

    Attributes:
        path: the file.
        meta: its ``meta``: epoch, iter, seed, what the engine needs to go on exactly.
        notes: a sentence about each file that was passed over, and about a pointer that was wrong.
        damaged: files that were passed over although they are newer.
    """

    path: Path
    meta: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)

    def settle(self) -> None:
        """Set the damaged files aside, so that nothing takes them for good, and point to the chosen one."""
        for path in self.damaged:
            os.replace(path, path.with_name(path.name + DAMAGED))
            beside = path.with_name(path.name + DIGEST)
            if beside.exists():
                os.replace(beside, path.with_name(path.name + DAMAGED + DIGEST))
        write_text(self.path.parent / POINTER, str(self.path.resolve()))


def choose_checkpoint(work_dir: Path) -> Choice | None:
    """The newest whole training checkpoint of a run's folder; None where there is no file of one at all.

    Nothing is changed; see :meth:`Choice.settle`.

    Raises:
        CheckpointError: there are checkpoints, and none can be used: names each and what is wrong with it.
    """
    work_dir = Path(work_dir)
    candidates = training_checkpoints(work_dir)[::-1]
    pointed, notes = _read_pointer(work_dir)
    if pointed is not None and pointed.resolve() not in [path.resolve() for path in candidates]:
        inside = pointed.parent.resolve() == work_dir.resolve()  # a run with names of its own
        if inside or not candidates:  # or one that saves elsewhere
            candidates.insert(0, pointed)
        else:  # of another run, as far as anybody can tell
            notes.append(f"{POINTER} names {pointed}, which is not in this folder; passed over")
    damaged, problems = [], []
    for path in candidates:
        problem, meta = _look(path)
        if problem is None:
            notes += [f"{text}; passed over" for text in problems]
            return Choice(path, meta, notes, damaged)
        problems.append(f"{path.name} {problem}")
        if path.parent.resolve() == work_dir.resolve() and problem != _WEIGHTS_ONLY:
            damaged.append(path)
    if not candidates:
        if notes and pointed is None:
            raise CheckpointError(f"--resume: {notes[0]}, and {work_dir} holds no checkpoint to go on from.")
        return None
    raise CheckpointError(
        f"--resume: none of the checkpoints in {work_dir} can be used: {'; '.join(problems)}. Restore one from a copy, "
        "or give --fresh to begin anew (the damaged files are kept)."
    )


def _read_pointer(work_dir: Path) -> tuple[Path | None, list[str]]:
    """The file that ``last_checkpoint`` names, looked for in this folder first: it may have been moved or copied."""
    pointer = work_dir / POINTER
    if not pointer.is_file():
        return None, [f"there is no {POINTER}"] if training_checkpoints(work_dir) else []
    try:
        with pointer.open(errors="replace") as stream:
            text = stream.read(_LONGEST_PATH + 1).strip()
    except OSError as error:
        return None, [f"{POINTER} cannot be read ({error.strerror or error})"]
    if not text:
        return None, [f"{POINTER} is empty"]
    if (
        len(text) > _LONGEST_PATH
        or not text.isprintable()
        or any(len(part) > 255 for part in Path(text).parts)
    ):
        return None, [f"{POINTER} holds no path, but a text that begins with {text[:40]!r}"]
    for target in (work_dir / Path(text).name, Path(text)):
        with suppress(OSError):  # a folder that may not be looked into, a path that is too long
            if target.is_file():
                return target, []
    return None, [f"{POINTER} names {text!r}, which is not there"]


def _look(path: Path) -> tuple[str | None, dict[str, Any]]:
    """What keeps a file from being gone on from, or None; and its ``meta``."""
    problem = check_file(path)
    if problem:
        return problem, {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a strange file makes the reader raise
        return f"cannot be read: {str(error).splitlines()[0][:200]}", {}
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict) or not {"epoch", "iter"} <= meta.keys() or "state_dict" not in content:
        return "is not a training checkpoint", {}
    if "optimizer" not in content:
        return _WEIGHTS_ONLY, {}
    return None, meta
