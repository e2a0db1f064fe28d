"""What a resumed run takes over from its own record: where it started, and how it was configured."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.places import find_backbones
from sosr_det.engine.backbone.source import RANDOM
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError

logger = logging.getLogger("sosr_det")


def resumed_origin(cfg: Any, options: TrainOptions) -> dict | None:
    """A resumed run continues from its own checkpoint and stays the child of the backbone it started from.

    Returns:
        The record of that backbone with ``settled``, the URI to put under the config again, which is None for a file
        that is gone: a resumed run does not need it. None where there was no backbone.
    """
    cfg.load_from = None
    work_dir = Path(cfg.work_dir)
    if not (work_dir / FILE_NAME).is_file():
        return None
    start = read_run_record(work_dir).get("backbone")
    if options.backbone and options.backbone not in ((start or {}).values() if start else ("random",)):
        raise ConfigError(
            f"--resume: the run in {work_dir} started from {start['uri'] if start else 'random weights'}; "
            f"--backbone {options.backbone} would be another run. Leave it out, or use another --work-dir."
        )
    if not start:
        return {"settled": RANDOM} if options.backbone == RANDOM else None
    settled = start.get("pinned_uri") or start["uri"]
    if "://" not in settled and not Path(settled).is_file():
        for backbone in find_backbones(cfg.model):  # the config's own would be another one
            backbone.settings["init_cfg"] = None
        settled = None
    return {**start, "settled": settled}
