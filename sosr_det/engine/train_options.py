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
    data_root: str | Path | None = None
    backbone: str | None = None
    allow: Sequence[str] = ()
    set_depth: bool = False
    classes: Sequence[str] | str | None = None  # names, or "scan"
    select_on: str | None = None
    seed: int | None = None
    total_epochs: int | None = None
    resume: bool = False
    auto_resume: bool = False  # resume where there is something to, else start
    fresh: bool = False  # begin anew where no checkpoint can be used
    allow_changes: bool = False  # resume with another config
    save_every: float | None = (
        None  # minutes between saves in the middle of an epoch; 0 never; None the config's
    )
    overwrite: bool = False
    amp: bool = False
    precision: str | None = None  # auto, fp32, bf16 or fp16; None: the config's, and so for all that follow
    channels_last: bool | None = None
    compile: bool | None = None
    compile_mode: str | None = None
    fused_optimizer: bool | None = None
    tf32: bool | None = None
    cudnn_benchmark: bool | None = None
    ema: float | None = None  # momentum of averaged weights, inside (0, 1)
    sync_bn: bool = False
    accumulate: int | None = None  # batches per update; None: the config's
    deterministic: bool = False
    image_scale: tuple[int, int] | None = None  # width, height in pixels
    parent: Path | None = None  # folder of a run to be compared with
    progress: str = "auto"  # auto, bar, lines or none
    on_bad_image: str | None = None  # error or skip; None: the config's, else error
    max_bad_images: int | None = None  # with skip, in the whole run; None: the config's, else 10
    dynamics: bool = False
    paired: bool = False
    publish: bool = True
    publish_as: str | None = None
    registry: str | Path | None = None
    launcher: str = "none"
    cfg_options: Sequence[str] = field(default_factory=list)
