"""What the command line can change about a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class TrainOptions:
    """What the command line can change about a config; see ``sosr-det train --help``."""

    config: str
    work_dir: Path | None = None
    data_root: Path | None = None
    backbone: str | None = None
    allow: Sequence[str] = ()
    set_depth: bool = False
    classes: Sequence[str] | str | None = None  # names, or "scan"
    select_on: str | None = None
    seed: int | None = None
    total_epochs: int | None = None
    resume: bool = False
    overwrite: bool = False
    amp: bool = False
    sync_bn: bool = False
    accumulate: int | None = None  # batches per update; None: the config's
    dynamics: bool = False
    paired: bool = False
    publish: bool = True
    publish_as: str | None = None
    registry: str | Path | None = None
    launcher: str = "none"
    cfg_options: Sequence[str] = field(default_factory=list)
