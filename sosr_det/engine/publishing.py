"""Publishing a finished run's backbone under the name that its config gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import read_run_record, write_run_record
from sosr_det.registry.export import export_backbone


def publish_name(cfg: Any, publish: bool, publish_as: str | None) -> str | None:
    """NAME[@TAG] that a run will publish under, or None when it will not."""
    if not publish:
        return None
    return publish_as or (cfg.get("publish") or {}).get("name")


def publish_run(work_dir: Path, name: str) -> dict:
    """Export the run's best epoch to the registry and note it in the run record.

    Raises:
        CheckpointError, RegistryError: see :func:`sosr_det.registry.export.export_backbone`. The run itself is
            complete then; ``sosr-det export RUN --name NAME`` repeats this step alone.
    """
    entry = export_backbone(work_dir, name)
    record = read_run_record(work_dir)
    record["published"] = {key: entry[key] for key in ("uri", "pinned_uri", "digest", "tensors_digest")}
    write_run_record(work_dir, record)
    return entry
