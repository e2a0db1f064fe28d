"""``train --paired``: runs of one seed see the same batches, and their records prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import ConfigError

_HOOK = "BatchDigestHook"


def apply_paired(cfg: Any, paired: bool) -> None:
    """Record digests of the batches, and seed each epoch by its number; ``cfg`` is changed in place.

    Raises:
        ConfigError: a config without a training set; a resumed run that was begun the other way.
    """
    work_dir = Path(cfg.work_dir)
    if cfg.get("resume") and (work_dir / FILE_NAME).is_file():
        was = read_run_record(work_dir).get("batches") is not None
        if was != paired:
            raise ConfigError(
                f"--resume: the run in {work_dir} was begun {'with' if was else 'without'} --paired; "
                f"{'add' if was else 'leave out'} it, or use another --work-dir."
            )
    if not paired:
        return
    loader = cfg.get("train_dataloader")
    if not isinstance(loader, dict) or not isinstance(loader.get("dataset"), dict):
        raise ConfigError("--paired needs a config with a train_dataloader and its dataset.")
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != _HOOK]
    cfg.custom_hooks = [*hooks, {"type": _HOOK}]
