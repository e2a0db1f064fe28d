"""What of a config's data the command line decides: its classes, and the images that the epoch is chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.found_classes import SCAN, scan_training_classes
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.selection import CHOICES, apply_selection, keep_recorded_data
from sosr_det.engine.setup import apply_classes
from sosr_det.errors import ConfigError


def choose_data(
    cfg: Any, classes: Sequence[str] | str | None, select_on: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Set classes and validation data; a run that is resumed keeps what it began with.

    Args:
        cfg: ``mmengine.config.Config`` with its ``work_dir`` and ``resume``, changed in place.
        classes: names, ``scan``, or None for the config's.
        select_on: see :func:`sosr_det.engine.selection.apply_selection`.

    Returns:
        What the run record keeps of it: ``selection``, and ``classes_found`` after a scan; and lines to print.

    Raises:
        ConfigError, DataError: see there and :func:`~sosr_det.engine.found_classes.scan_training_classes`; another
            choice than the resumed run's.
    """
    began = _beginning(cfg)
    settings: dict[str, Any] = {}
    lines = []
    if began.get("classes_found") and classes in (None, SCAN):
        settings["classes_found"] = began["classes_found"]
        classes = list(began["classes_found"])
    elif classes == SCAN:
        found = settings["classes_found"] = scan_training_classes(cfg)
        classes = list(found)
        lines.append(f"classes found: {', '.join(f'{name} ({count})' for name, count in found.items())}")
    apply_classes(cfg, classes)
    if began and "selection" not in began and cfg.get("stage", "detection") == "detection":
        if select_on is not None:
            raise ConfigError(
                f"--resume: the run in {cfg.work_dir} was begun before epochs were chosen by --select-on; "
                f"--select-on {select_on} could train on other images. Leave it out, or use another --work-dir."
            )
        settings["selection"] = keep_recorded_data(cfg, began)
        lines.append(
            "--resume: this run began before a part was held out, so it goes on training on all images and choosing "
            f"as it did (on: {settings['selection']['on']})"
        )
        return settings, lines
    selection = began.get("selection") or {}
    on = selection.get("on")
    if on in CHOICES:
        if select_on not in (None, on):
            raise ConfigError(
                f"--resume: the run in {cfg.work_dir} chooses its epoch on {on}; --select-on {select_on} would train "
                "on other images or choose otherwise. Leave it out, or use another --work-dir."
            )
        select_on = selection.get("asked") or select_on
    settings["selection"], said = apply_selection(cfg, select_on)
    return settings, lines + said


def _beginning(cfg: Any) -> dict[str, Any]:
    """The record of the run that is resumed; empty for a new one."""
    work_dir = Path(cfg.work_dir)
    if not cfg.get("resume") or not (work_dir / FILE_NAME).is_file():
        return {}
    return read_run_record(work_dir)
