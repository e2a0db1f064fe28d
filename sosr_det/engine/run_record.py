"""``run.json``: the record that every run leaves beside its checkpoints."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sosr_det.engine.checkpoints.names import is_mid_epoch, training_checkpoints
from sosr_det.errors import CheckpointError

FILE_NAME = "run.json"
SCHEMA_VERSION = 1


def write_run_record(work_dir: Path, record: dict[str, Any]) -> Path:
    """Replace ``work_dir/run.json`` atomically, so that a reader never sees half of it."""
    path = Path(work_dir) / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.tmp")
    try:
        with open(temporary, "w") as stream:
            json.dump(plain(record), stream, indent=1, sort_keys=True, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return path


def read_run_record(path: Path) -> dict[str, Any]:
    """Read a run record from its file or from the run's folder.

    Raises:
        CheckpointError: absent, not JSON, or of another schema version.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"no run record at {path}. `sosr-det train` writes run.json into its work directory; "
            "pass that folder or a checkpoint inside it."
        )
    try:
        record = json.loads(path.read_text())
        version = record["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a run record: {error}") from error
    if version != SCHEMA_VERSION:
        raise CheckpointError(f"{path} has schema version {version}, this sosr-det reads {SCHEMA_VERSION}")
    return record


def kept_checkpoint(run_dir: Path, record: dict[str, Any]) -> Path:
    """The checkpoint that a run is represented by: of the chosen epoch, or the last one where none was chosen.

    Raises:
        CheckpointError: it is missing, or the run has none yet.
    """
    chosen = record.get("best") or {}
    best = chosen.get("checkpoint")
    if chosen and not best:
        raise CheckpointError(
            f"the run in {run_dir} chose epoch {chosen.get('epoch')} by its {chosen.get('metric')}, but the checkpoint "
            "of that epoch (best_*.pth) was not there when the run ended, and another epoch would be another result. "
            f"Name a checkpoint file, such as epoch_{chosen.get('epoch')}.pth if it was kept."
        )
    if best:
        if not (run_dir / best).is_file():
            raise CheckpointError(
                f"the run's best checkpoint {run_dir / best} is missing; name another checkpoint file."
            )
        return run_dir / best
    files = training_checkpoints(run_dir)
    whole = [path for path in files if not is_mid_epoch(path)]
    if not whole and files:
        raise CheckpointError(
            f"the run in {run_dir} was stopped in its first epoch: finish it with `sosr-det train --resume`, or name "
            f"the checkpoint file {files[-1].name}."
        )
    if not whole:
        raise CheckpointError(f"no checkpoint in {run_dir}: the run stopped before its first one.")
    return whole[-1]


def run_files(work_dir: Path) -> list[Path]:
    """What mmengine and this project write into a run's folder: checkpoints, their pointer, the records."""
    patterns = (
        *(
            f"{name}{beside}"
            for name in (
                "epoch_*.pth",
                "mid_epoch_*.pth",
                "iter_*.pth",
                "best_*_epoch_*.pth",
                "best_*_iter_*.pth",
            )
            for beside in ("", ".sha256")
        ),
        "last_checkpoint",
        "dynamics.json",
        "metrics.jsonl",
        "diverged*.json",
        "features_2d.npz",
        FILE_NAME,
    )
    return [path for pattern in patterns for path in sorted(Path(work_dir).glob(pattern))]


def plain(value: Any) -> Any:
    """JSON types only; NaN and infinities, which JSON lacks, become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
