"""``dynamics.json`` and ``features_2d.npz``: what :class:`TrainingDynamicsHook` leaves beside ``run.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.errors import CheckpointError

DYNAMICS_FILE = "dynamics.json"
FEATURES_FILE = "features_2d.npz"
SCHEMA_VERSION = 1


def write_dynamics(work_dir: Path, record: dict[str, Any]) -> Path:
    """Replace ``work_dir/dynamics.json`` atomically, so that a reader never sees half of it."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=1, allow_nan=False, default=str)
    return _replace(Path(work_dir) / DYNAMICS_FILE, lambda stream: stream.write(text.encode()))


def read_dynamics(run: Path) -> dict[str, Any]:
    """Read ``dynamics.json`` of a run folder.

    Raises:
        CheckpointError: absent (says how to record it), not JSON, or of another schema version.
    """
    path = Path(run) / DYNAMICS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"no {DYNAMICS_FILE} in {run}: the run did not record its dynamics. Train with `sosr-det train CONFIG "
            "--dynamics`, or add custom_hooks = [dict(type='TrainingDynamicsHook')] to the config; of a finished run "
            "`sosr-det figures --recompute` measures the checkpoints that are there."
        )
    try:
        record = json.loads(path.read_text())
        version, _ = record["schema_version"], record["epochs"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a record of training dynamics: {error!r}. Remove it."
        ) from error
    if version != SCHEMA_VERSION:
        raise CheckpointError(f"{path} has schema version {version}, this sosr-det reads {SCHEMA_VERSION}")
    return record


def write_features(work_dir: Path, **arrays: np.ndarray) -> Path:
    """Replace ``work_dir/features_2d.npz`` atomically."""
    return _replace(Path(work_dir) / FEATURES_FILE, lambda stream: np.savez_compressed(stream, **arrays))


def read_features(run: Path) -> dict[str, np.ndarray] | None:
    """Features and labels of a run's sets (``val_features`` [n, 2], ``val_labels`` [n], ``train_…``), or None.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(run) / FEATURES_FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Remove it.") from error


def _replace(path: Path, write: Any) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    return path
