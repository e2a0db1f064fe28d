"""One run of a comparison: trained, tested, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from sosr_det.engine.compare.arms import require_same_weights
from sosr_det.engine.compare.study import PREDICTIONS, Cell, Study
from sosr_det.engine.run_record import FILE_NAME as RUN_RECORD
from sosr_det.engine.run_record import kept_checkpoint
from sosr_det.engine.studies.process import Processes, how_ended, last_error
from sosr_det.engine.studies.records import (
    MODES,
    completed_record,
    last_checkpoint,
    next_mode,
    replace_text,
)
from sosr_det.errors import CheckpointError, ConfigError

DONE, ATTEMPT, TEST_CONFIG = "done.json", "attempt.json", "test_config.py"


class CellFailed(Exception):
    """A run or its test failed; the message says why, ``log`` where more is."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


def read_done(cell: Cell) -> dict[str, Any] | None:
    """What a finished cell left: metrics, checkpoint, file of predictions and its SHA-256; None where unfinished.

    A file that says something else is not taken for a finished cell, so its test is made again.
    """
    try:
        done = json.loads((cell.folder / DONE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"checkpoint": str, "predictions": str, "predictions_sha256": str, "metrics": dict}
    if not isinstance(done, dict) or any(not isinstance(done.get(key), kind) for key, kind in kinds.items()):
        return None
    whole = completed_record(cell.run_dir) and (cell.test_dir / done["predictions"]).is_file()
    return done if whole else None


def run_cell(
    study: Study, cell: Cell, processes: Processes, lock: int, environment: dict[str, str] | None
) -> dict[str, Any]:
    """Do what is missing of a cell: train it, resume it, test it. Returns what :func:`read_done` does.

    Raises:
        CellFailed: the training or the test ended with an error, or the arm's weights file is not what it was.
    """
    log = study.folder / "logs" / f"{cell.arm.name}_seed-{cell.seed}.log"
    if completed_record(cell.run_dir) is None:
        try:
            require_same_weights(cell.arm)
        except ConfigError as error:
            raise CellFailed(str(error), log) from error
        mode = training_mode(cell)
        attempt = {"mode": mode, "last_checkpoint": last_checkpoint(cell.run_dir), "failed": False}
        _note_attempt(cell, attempt)
        code = processes.run(train_command(study, cell, mode), log, lock, environment)
        if code != 0 or completed_record(cell.run_dir) is None:
            _note_attempt(cell, {**attempt, "failed": True})
            raise CellFailed(f"training failed, {how_ended(code)}: {last_error(log)}", log)
    record = completed_record(cell.run_dir)
    try:
        checkpoint = kept_checkpoint(cell.run_dir, record)
    except CheckpointError as error:
        raise CellFailed(str(error), log) from error
    # The config as it was trained: with another backbone, its preprocessing may not be the named config's.
    replace_text(cell.folder / TEST_CONFIG, record["config_text"])
    variables = {**(environment or {}), **test_environment(study)} or None
    code = processes.run(test_command(study, cell, checkpoint), log, lock, variables)
    predictions = cell.test_dir / PREDICTIONS[study.kind]
    if code != 0 or not predictions.is_file():
        raise CellFailed(f"the test failed, {how_ended(code)}: {last_error(log)}", log)
    done = {
        "checkpoint": checkpoint.name,
        "predictions": predictions.name,
        "predictions_sha256": file_sha256(predictions),
        "metrics": json.loads((cell.test_dir / "test.json").read_text())["metrics"],
    }
    replace_text(cell.folder / DONE, json.dumps(done, indent=1) + "\n")
    return done


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def training_mode(cell: Cell) -> str:
    """``starting``, ``resuming`` from a checkpoint, or ``starting over`` what left nothing to resume."""
    if not (cell.run_dir / RUN_RECORD).exists():
        return "starting"
    try:
        attempt = json.loads((cell.folder / ATTEMPT).read_text())
    except (OSError, ValueError):
        attempt = {}
    failed = isinstance(attempt, dict) and attempt.get("failed")
    resumed = failed and str(attempt.get("mode")).startswith("resuming")
    # After a newer checkpoint it is another failure.
    stuck = resumed and attempt.get("last_checkpoint") == last_checkpoint(cell.run_dir)
    return next_mode(cell.run_dir, stuck=bool(stuck))


def state(cell: Cell) -> str:
    """For people: ``done``, ``trained``, ``to resume`` or ``to run``."""
    if read_done(cell):
        return "done"
    if completed_record(cell.run_dir):
        return "trained, to test"
    return "to resume" if training_mode(cell).startswith("resuming") else "to run"


def train_command(study: Study, cell: Cell, mode: str) -> list[str]:
    """The command line of a cell's training, in this Python."""
    options = study.options
    command = [sys.executable, "-m", "sosr_det.cli", "train", cell.arm.config]
    command += ["--work-dir", str(cell.run_dir), "--seed", str(cell.seed), "--paired", "--no-publish"]
    for flag, value in (
        ("--backbone", cell.arm.weights),
        ("--data-root", options["data_root"]),
        ("--classes", options["classes"]),
        ("--total-epochs", options["total_epochs"]),
        ("--select-on", options["select_on"]),
        ("--registry", options["registry"]),
    ):
        if value is not None:
            command += [flag, str(value)]
    command += ["--amp"] if options["amp"] else []
    command += [part for name in options["allow"] for part in ("--allow", name)]
    command += MODES[mode]
    return command + [part for override in options["cfg_options"] for part in ("--cfg-options", override)]


def test_command(study: Study, cell: Cell, checkpoint: Path) -> list[str]:
    """The command line of a cell's test."""
    options = study.options
    command = [sys.executable, "-m", "sosr_det.cli", "test", str(cell.folder / TEST_CONFIG), str(checkpoint)]
    command += ["--work-dir", str(cell.test_dir)]
    for flag, value in (("--data-root", options["data_root"]), ("--registry", options["registry"])):
        if value is not None:
            command += [flag, str(value)]
    return command


def test_environment(study: Study) -> dict[str, str]:
    """Variables that a test gets beside this process's.

    A ``data_root`` among the overrides stood against ``$SOSR_DATA`` in the training, and is in the config that it left;
    the test has no overrides, so there the variable must not replace it (empty is as unset).
    """
    by_hand = any("data_root" in override.partition("=")[0] for override in study.options["cfg_options"])
    return {"SOSR_DATA": ""} if by_hand and study.options["data_root"] is None else {}


def _note_attempt(cell: Cell, attempt: dict[str, Any]) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    replace_text(cell.folder / ATTEMPT, json.dumps(attempt) + "\n")
