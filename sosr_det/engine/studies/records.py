"""What a study reads of its runs, and how it writes its own files."""

from __future__ import annotations

import os
from pathlib import Path

from sosr_det.engine.checkpoints.names import training_checkpoints
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import CheckpointError


def completed_record(run_dir: Path) -> dict | None:
    """The run's record if it ran to its end, else None (also for a record that cannot be read)."""
    if not (run_dir / FILE_NAME).is_file():
        return None
    try:
        record = read_run_record(run_dir)
    except CheckpointError:
        return None
    return record if record.get("status") == "completed" else None


# What a training is told, by how it begins.
MODES = {
    "starting": [],
    "resuming": ["--resume"],
    "resuming what is whole": ["--resume", "--fresh"],
    "starting over": ["--overwrite"],
}


def last_checkpoint(run_dir: Path) -> str | None:
    """What the run would resume from, as mmengine's pointer names it; None where there is no pointer."""
    try:
        return (run_dir / "last_checkpoint").read_text(errors="replace").strip()
    except OSError:
        return None


def next_mode(run_dir: Path, *, stuck: bool) -> str:
    """How a run that has begun goes on: a key of :data:`MODES`.

    Args:
        run_dir: its folder.
        stuck: it failed after it was resumed, without a newer checkpoint. That may be the disk, the data's mount or the
            memory as well as a damaged checkpoint: as long as one is whole, nothing is thrown away.
    """
    saved = bool(training_checkpoints(run_dir))
    if not saved and (stuck or last_checkpoint(run_dir) is None):
        return "starting over"
    return "resuming what is whole" if stuck else "resuming"


def replace_text(path: Path, text: str) -> None:
    """Write a file so that no reader, and no crash, ever meets half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
