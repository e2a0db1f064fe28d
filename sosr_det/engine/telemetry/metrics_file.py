"""``metrics.jsonl``: one JSON object a line, appended as a run trains; a killed run leaves it readable.

Every object has ``kind``, ``epoch`` (counted from 1; 0 in a run by iterations), ``step`` (training steps of the whole
run so far) and ``time`` (seconds since 1970). NaN and infinities are null. By ``kind``:

``train``: at every log interval. ``loss`` and every other term of the loss: means over the steps since the last such
line. ``lr``, ``momentum``: of the first parameter group, in this step. ``grad_norm``: L2 norm of the gradient of all
parameters in the last update up to this step, before clipping by norm. ``img_per_s``: images of all processes per
second, data loading included. ``data_wait_fraction``: share of the wall time spent waiting for the data loader, 0 to 1.
``seconds_per_step``. ``memory_mib`` and ``memory_of``: the peak so far, allocated on the GPU (``cuda``) or resident in
the main process (``process``). ``eta_seconds``: until the run ends, validations included.

``epoch``: when an epoch was trained. ``seconds``, ``img_per_s``, ``data_wait_fraction``, ``seconds_per_step``; of the
part that this process trained, where the run was resumed within the epoch.

``val``: ``seconds``, and the metrics by their names.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from sosr_det.engine.run_record import plain
from sosr_det.errors import CheckpointError

FILE_NAME = "metrics.jsonl"


class MetricsFile:
    """Appends records; a line is written at once, and flushed, so that a kill breaks the last line at most.

    Nothing is opened before the first record. One process writes.

    Args:
        work_dir: folder of the run.
    """

    def __init__(self, work_dir: Path | str) -> None:
        self.path = Path(work_dir) / FILE_NAME
        self._stream: Any = None
        self._mode = "w"

    def resume(self, step: int) -> None:
        """Go on behind the records of ``step`` steps; later ones are dropped, of steps that will be made again.

        The file is replaced as a whole, so that a kill leaves the old one or the new one. Lines that are no records
        (zeros, after a crash of the machine) are left out, with a warning: figures are no reason not to train on.
        """
        self._mode = "a"
        if not self.path.is_file():
            return
        records, damaged = _records(self.path)
        if damaged:
            aside = self.path.with_name(f"{FILE_NAME}.damaged")
            shutil.copyfile(self.path, aside)
            print_log(
                f"{self.path} is damaged ({damaged[0]}): {len(damaged)} of its lines are left out; {aside} is a copy",
                logger="current",
                level=logging.WARNING,
            )
        lines = [json.dumps(each) for each in records if each["step"] <= step]
        temporary = self.path.with_name(f".{FILE_NAME}.tmp")
        with temporary.open("w") as stream:
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.path)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        if self._stream is None:
            self._stream = self.path.open(self._mode, encoding="utf-8")
        self._stream.write(json.dumps(plain(record), allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Write to the disk and close; a later record opens the file again, to append."""
        if self._stream is not None:
            self._stream.close()
            self._stream, self._mode = None, "a"


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a run, oldest first.

    A last line that a kill cut off is left out. Of records of one kind and step, which a kill between two files may
    have doubled, the last one counts.

    Args:
        path: ``metrics.jsonl``, or the folder of the run.

    Raises:
        CheckpointError: no such file, or a line that is no record and not the last one.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"there is no {path}. `sosr-det train` writes it beside the run's checkpoints.")
    records, damaged = _records(path)
    if damaged:
        raise CheckpointError(f"{path}, {damaged[0]}")
    return records


def _records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records that can be read, and what is wrong with other lines, but for a last one that was cut off."""
    lines = path.read_bytes().split(b"\n")
    found: dict[tuple[str, int], dict[str, Any]] = {}
    damaged = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            key = (str(record["kind"]), int(record["step"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if place != len(lines):  # a last line without its end was cut off
                damaged.append(f"line {place} is no record of a run's metrics: {error}")
            continue
        found.pop(key, None)
        found[key] = record
    return list(found.values()), damaged


def finite(value: Any) -> float | None:
    """A number for JSON: None for NaN and infinities, which it lacks."""
    value = float(value)
    return value if math.isfinite(value) else None
