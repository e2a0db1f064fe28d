"""The files of a run that training can go on from, in order.

``epoch_3.pth`` was written when 3 epochs were finished, ``mid_epoch_4_iter_1234.pth`` in the middle of the fourth,
after 1234 steps of the run, and ``iter_500.pth`` by a training that counts steps. ``best_*.pth`` hold weights only.
"""

from __future__ import annotations

import re
from pathlib import Path

POINTER = "last_checkpoint"
DAMAGED = ".damaged"  # ending of a file that could not be used, kept aside
_NAME = re.compile(
    r"(?:epoch_(?P<epoch>\d+)|mid_epoch_(?P<middle>\d+)_iter_(?P<step>\d+)|iter_(?P<iter>\d+))\.pth"
)


def mid_epoch_name(epoch: int, iteration: int) -> str:
    """File name for the middle of an epoch (counted from 1), after ``iteration`` steps of the whole run."""
    return f"mid_epoch_{epoch}_iter_{iteration}.pth"


def is_mid_epoch(path: Path) -> bool:
    """Whether a file was written in the middle of an epoch, to be replaced by the next one."""
    return path.name.startswith("mid_epoch_")


def progress(path: Path) -> tuple[int, int] | None:
    """``(finished epochs, steps of the run or 0)``, growing over a run; None for a file of another name."""
    found = _NAME.fullmatch(path.name)
    if not found:
        return None
    if found["epoch"]:
        return int(found["epoch"]), 0
    if found["middle"]:
        return int(found["middle"]) - 1, int(found["step"])
    return 0, int(found["iter"])


def training_checkpoints(folder: Path) -> list[Path]:
    """Those in a run's folder, the newest last, by their names."""
    found = [(progress(path), path) for path in Path(folder).glob("*.pth")]
    return [path for place, path in sorted((place, path) for place, path in found if place is not None)]
