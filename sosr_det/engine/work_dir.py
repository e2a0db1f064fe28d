"""A run's folder: claimed before it, cleaned up after a failure, told about after an interrupt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sosr_det.engine.checkpoints.names import training_checkpoints
from sosr_det.engine.configs import walk_dicts
from sosr_det.engine.run_record import FILE_NAME, read_run_record, run_files, write_run_record
from sosr_det.engine.signals import TERMINATED
from sosr_det.errors import ConfigError


class OccupiedError(ConfigError):
    """The work directory holds a run already, and nothing was said about it."""


def claim_work_dir(cfg: Any, work_dir: Path, *, overwrite: bool) -> None:
    """Never overwrite a run by accident. What a resumed run goes on from is settled before."""
    if overwrite:
        replaced = {path.resolve() for path in run_files(work_dir)}
        for node in walk_dicts(cfg.model):
            source = node.get("checkpoint")
            if isinstance(source, str) and "://" not in source and Path(source).resolve() in replaced:
                raise ConfigError(
                    f"--overwrite would remove {source}, which this run starts from. Use another --work-dir."
                )
    if cfg.get("resume"):
        return
    if (work_dir / FILE_NAME).exists() and not overwrite:
        record = read_run_record(work_dir)
        raise OccupiedError(
            f"{work_dir} already holds a run ({record['status']}, {len(record['epochs'])} epochs recorded). "
            "Use --resume to continue it, another --work-dir to keep both, or --overwrite to replace it."
        )
    found = training_checkpoints(work_dir)
    if found and not overwrite:  # a later --resume could not tell them from those of the new run
        raise OccupiedError(
            f"{work_dir} holds checkpoints ({found[-1].name}, …) without the record of their run. Use --resume to go "
            "on from the newest, another --work-dir, or --overwrite to replace them."
        )
    if work_dir.exists() and not work_dir.is_dir():
        raise ConfigError(f"the work directory {work_dir} is a file.")


def make_folder(work_dir: Path) -> bool:
    """Make the work directory on the main process; True when this run made it and so may remove it."""
    from mmengine.dist import is_main_process

    if not is_main_process():
        return False
    try:
        work_dir.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(
            f"the work directory {work_dir} cannot be made: {error}. Choose another --work-dir."
        ) from error
    return True


def is_interrupt(error: BaseException) -> bool:
    """Ctrl-C or SIGTERM; also where a library turned it into another error, as mmengine's Config.pretty_text does."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt) or (
            isinstance(cause, SystemExit) and cause.code == TERMINATED
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def after_interrupt(work_dir: Path, *, removed: bool) -> str:
    if training_checkpoints(work_dir):
        return "continue with --resume"
    if removed or not (work_dir / FILE_NAME).exists():
        return "no step was made and nothing was kept, start again"
    return "no checkpoint was saved yet, start again with --overwrite"


def clean_up_after(error: BaseException, work_dir: Path, *, remove: bool, status: str) -> None:
    """Mark a run that had begun as failed or interrupted; remove a folder that holds nothing worth keeping."""
    from mmengine.dist import is_main_process

    if not is_main_process():
        return
    if remove:
        remove_folder(work_dir)
        return
    if (work_dir / FILE_NAME).exists():
        record = read_run_record(work_dir)
        if record["status"] == "running":
            record.update(status=status, error=f"{type(error).__name__}: {error}"[:2000])
            write_run_record(work_dir, record)


def remove_folder(folder: Path) -> None:
    """Remove a folder that a run has written into; what mmengine keeps open in it is closed first."""
    from mmengine.logging import MMLogger

    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            name = getattr(handler, "baseFilename", None)
            if name is not None and Path(name).is_relative_to(folder.absolute()):
                handler.close()
                logger.handlers.remove(handler)
    _forget_visualizers()
    shutil.rmtree(folder, ignore_errors=True)


def _forget_visualizers() -> None:
    """mmengine keeps visualizers by config name and second: the next run must not get a removed one's."""
    from mmengine.visualization import Visualizer

    for cls in (Visualizer, *Visualizer.__subclasses__()):
        cls._instance_dict.clear()
