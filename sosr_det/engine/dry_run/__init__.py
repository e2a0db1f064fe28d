"""``train --dry-run``: whether a training would work, and how long it would take, before it takes days."""

from sosr_det.engine.dry_run.run import dry_run

__all__ = ["dry_run"]
