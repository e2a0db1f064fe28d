"""Running a grid of configs and seeds, each point as a training run of its own, resumable at any moment.

The run folders are the truth: a point is done when its ``run.json`` says ``completed``. Whatever else a folder
holds is continued from its last checkpoint, or started over.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.configs import load_config
from sosr_det.engine.provenance import config_digest, text_digest
from sosr_det.engine.run_record import FILE_NAME as RUN_RECORD
from sosr_det.engine.signals import sigterm_unwinds
from sosr_det.engine.studies.process import hold_lock, how_ended, last_error, run_process
from sosr_det.engine.studies.records import MODES, completed_record, last_checkpoint, next_mode
from sosr_det.engine.studies.seeds import parse_seeds
from sosr_det.engine.sweep.checks import require_metric, require_sosr, require_usable_losses
from sosr_det.engine.sweep.grid import Point, parse_grid, points
from sosr_det.engine.sweep.results import (
    collect,
    direction_of,
    metric_value,
    read_sweep,
    render,
    write_sweep,
)
from sosr_det.engine.sweep.study import add_attempt, attempts, open_study
from sosr_det.errors import ConfigError, SosrError


@dataclass
class SweepOptions:
    """What to sweep, and what is the same for every run; see ``sosr-det sweep --help``."""

    config: str
    settings: Sequence[str] = field(default_factory=list)
    seeds: str = "0,1,2"
    metric: str = "accuracy/top1"
    work_dir: Path | None = None
    extend: bool = False
    stop_on_error: bool = False
    dry_run: bool = False
    data_root: Path | None = None
    backbone: str | None = None
    total_epochs: int | None = None
    amp: bool = False
    registry: str | Path | None = None
    cfg_options: Sequence[str] = field(default_factory=list)


def run_sweep(options: SweepOptions) -> Path:
    """Run what is missing of a grid and print the table; returns the sweep's folder.

    Several processes of one machine may work on the same folder, each started with the same options (one per GPU, say,
    with its own ``CUDA_VISIBLE_DEVICES``): a point is locked while it runs. Machines that share the folder may too, if
    its file system supports ``flock`` between them.

    Raises:
        ConfigError: a grid that the config refuses, or that is not the one the folder was begun with.
        SosrError: trials failed; the table was printed and the rest is done.
    """
    sweep = _Sweep(options)
    if options.dry_run:
        sweep.describe()
        return sweep.folder
    sweep.begin()
    try:
        sweep.work()
    finally:
        print(sweep.conclude())
    sweep.raise_failures()
    return sweep.folder


class _Sweep:
    """One process's work on a sweep."""

    def __init__(self, options: SweepOptions) -> None:
        self.options = options
        self.grid = parse_grid(options.settings)
        self.seeds = parse_seeds(options.seeds)
        self.points = points(self.grid, self.seeds)
        self.folder = Path(options.work_dir or Path("work_dirs") / f"sweep_{Path(options.config).stem}")
        self.spec = self._checked_spec()
        self.failed: list[str] = []
        self.began = time.time()

    def _checked_spec(self) -> dict:
        """What makes two sweeps the same; every value of the grid has been tried on the config by then."""
        import sosr_det.register  # noqa: F401  names in the config must be known before it loads

        options = self.options
        if any(override.startswith("randomness.seed=") for override in options.cfg_options):
            raise ConfigError("--cfg-options randomness.seed: every run has a seed of its own; use --seeds.")
        if "randomness.seed" in self.grid:
            raise ConfigError("--set randomness.seed: use --seeds.")
        base = load_config(options.config, options.cfg_options)
        if not options.settings:
            require_sosr(options.config, base)
        for key, values in self.grid.items():
            for value in values:
                try:
                    load_config(options.config, [*options.cfg_options, f"{key}={value}"])
                except ConfigError as error:
                    reason = str(error).removeprefix("--cfg-options ")
                    raise ConfigError(f"--set {key}={value}: {reason}") from error
        require_usable_losses(self.grid, base)
        require_metric(options.metric, base)
        return {
            "config": options.config,
            "config_digest": config_digest(base),
            "grid": {key: list(values) for key, values in self.grid.items()},
            "seeds": list(self.seeds),
            "train_options": {
                "backbone": options.backbone,
                "total_epochs": options.total_epochs,
                "amp": options.amp,
                "cfg_options": list(options.cfg_options),
            },
        }

    # ---- folder ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim the folder for this sweep, or find that it is this sweep's already."""
        if (self.folder / RUN_RECORD).exists():
            raise ConfigError(f"{self.folder} holds a run, not a sweep; use another --work-dir.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the sweep's folder {self.folder} cannot be made: {error}") from error
        with self._folder_lock():
            self._require_same_sweep()
            self._write_results()

    def _require_same_sweep(self) -> None:
        earlier = read_sweep(self.folder)
        if earlier is None:
            return
        before = earlier["spec"]
        if before["config"] != self.spec["config"] and before["config_digest"] != self.spec["config_digest"]:
            raise ConfigError(
                f"{self.folder} holds a sweep of {before['config']}, asked for is {self.spec['config']}; "
                "use another --work-dir."
            )
        for part, what in (
            ("train_options", "the options"),
            ("config_digest", f"config {self.spec['config']}"),
        ):
            if before[part] != self.spec[part]:
                change = "" if part == "config_digest" else f" from {before[part]} to {self.spec[part]}"
                raise ConfigError(
                    f"{what} of the sweep in {self.folder} changed since it began{change}, so new runs would not be "
                    "comparable with the finished ones. Use another --work-dir."
                )
        if (before["grid"], before["seeds"]) == (self.spec["grid"], self.spec["seeds"]):
            return
        if before["grid"].keys() != self.spec["grid"].keys():
            raise ConfigError(
                f"{self.folder} holds a sweep over {', '.join(before['grid'])}, asked for is "
                f"{', '.join(self.spec['grid'])}. Other keys are another sweep: use another --work-dir."
            )
        lost = {
            key: [v for v in values if v not in self.spec["grid"][key]]
            for key, values in before["grid"].items()
        }
        lost["seeds"] = [seed for seed in before["seeds"] if seed not in self.spec["seeds"]]
        lost = {key: values for key, values in lost.items() if values}
        if lost:
            listed = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in lost.items())
            raise ConfigError(
                f"{self.folder} holds a larger sweep; asked for is one without {listed}. A sweep only grows: give its "
                "values too, or use another --work-dir."
            )
        if not self.options.extend:
            raise ConfigError(
                f"{self.folder} holds a smaller sweep ({before['grid']}, seeds {before['seeds']}). Add --extend to run "
                "the new points beside the finished ones, or use another --work-dir."
            )

    def _folder_lock(self):
        return hold_lock(self.folder / ".locks" / "folder.lock", wait=True)

    def _point_lock(self, point: Point):
        return hold_lock(self.folder / ".locks" / f"{point.name}.lock", wait=False)

    def _study(self) -> Any:
        """The study of this grid and metric: optuna's studies have fixed values, so an extended grid is another one."""
        metric = self.options.metric
        digest = text_digest(json.dumps([self.spec["grid"], self.spec["seeds"], metric]))[:8]
        return open_study(self.folder, f"{metric} {digest}", direction_of(metric))

    # ---- work ------------------------------------------------------------------------------------------------------

    @sigterm_unwinds()  # so that the running trial is stopped too
    def work(self) -> None:
        """Run every point that is not done and that no other process is running, each once."""
        for number, point in enumerate(self.points, start=1):
            with self._point_lock(point) as lock:
                if lock is None:
                    print(
                        f"[{number}/{len(self.points)}] {point.name}: another process is running it",
                        flush=True,
                    )
                elif completed_record(self.folder / point.name) is None:
                    self._run(number, point, lock)

    def _tried_meanwhile(self, point: Point) -> bool:
        """Whether another process has failed at the point since this one began: once is enough."""
        earlier = attempts(self._study()).get(point.name)
        return bool(earlier) and earlier[-1]["at"] > self.began

    def _run(self, number: int, point: Point, lock: int) -> None:
        mode = self._mode(point)
        log = self.folder / "logs" / f"{point.name}.log"
        label = f"[{number}/{len(self.points)}] {point.name}"
        print(f"{label}: {mode} (log: {log})", flush=True)
        resumed = mode.startswith("resuming")
        pointer = last_checkpoint(self.folder / point.name)
        try:
            code = run_process(self.command(point, mode), log, lock)
        except BaseException:
            self._file(point, None, interrupted=True, resumed=False)
            raise
        record = completed_record(self.folder / point.name)
        if code == 0 and record is not None:
            value = metric_value(record, self.options.metric)
            self._file(point, value, resumed=resumed)
            print(
                f"{label}: {self.options.metric} {value:.4f} at epoch {record['best']['epoch']}", flush=True
            )
            return
        error = last_error(log)
        # Failed at a newer checkpoint than it was resumed from, it may be resumed again.
        stuck = resumed and last_checkpoint(self.folder / point.name) == pointer
        self._file(point, None, error=error, exit_code=code, resumed=stuck)
        self.failed.append(point.name)
        print(f"{label}: failed ({how_ended(code)}): {error}", flush=True)
        if self.options.stop_on_error:
            raise SosrError(f"--stop-on-error: {point.name} failed: {error}. Its log: {log}")

    def _mode(self, point: Point) -> str:
        """``starting``, ``resuming`` from a checkpoint, or ``starting over`` what left nothing to resume."""
        run_dir = self.folder / point.name
        if not (run_dir / RUN_RECORD).exists():
            return "starting"
        earlier = attempts(self._study()).get(point.name)
        return next_mode(run_dir, stuck=bool(earlier and earlier[-1].get("resumed")))

    def command(self, point: Point, mode: str) -> list[str]:
        """The command line of a point's run, in this Python."""
        options = self.options
        command = [sys.executable, "-m", "sosr_det.cli", "train", options.config]
        command += ["--work-dir", str(self.folder / point.name), "--seed", str(point.seed), "--no-publish"]
        for flag, value in (
            ("--data-root", options.data_root),
            ("--backbone", options.backbone),
            ("--total-epochs", options.total_epochs),
            ("--registry", options.registry),
        ):
            if value is not None:
                command += [flag, str(value)]
        command += ["--amp"] if options.amp else []
        command += MODES[mode]
        overrides = [*options.cfg_options, *(f"{key}={value}" for key, value in point.settings)]
        return command + [part for override in overrides for part in ("--cfg-options", override)]

    # ---- results ---------------------------------------------------------------------------------------------------

    def _file(self, point: Point, value: float | None, **notes: Any) -> None:
        with self._folder_lock():
            add_attempt(self._study(), self.grid, point, value, at=time.time(), **notes)
            self._write_results()

    def _write_results(self) -> list[dict]:
        """Bring the study and the result files to what the run folders hold; the caller holds the folder's lock."""
        study = self._study()
        known = attempts(study)
        rows = collect(self.folder, self.points, self.options.metric, known)
        for point, row in zip(self.points, rows, strict=True):
            # Done before the grid was extended, or under another metric.
            if row["status"] == "completed" and not any(a["completed"] for a in known.get(point.name, ())):
                add_attempt(study, self.grid, point, row["value"], at=time.time(), resumed=False)
        write_sweep(self.folder, self.spec, self.options.metric, rows)
        return rows

    def conclude(self) -> str:
        """Write the results a last time; returns the table."""
        with self._folder_lock():
            rows = self._write_results()
        done = sum(row["status"] == "completed" for row in rows)
        return f"\n{render(rows, self.options.metric)}\n{done} of {len(rows)} runs done: {self.folder}"

    def raise_failures(self) -> None:
        """Tell the failures of this process, if any.

        Raises:
            SosrError: names them and their logs.
        """
        if self.failed:
            shown = ", ".join(self.failed[:3]) + (", …" if len(self.failed) > 3 else "")
            raise SosrError(
                f"{len(self.failed)} of {len(self.points)} trials failed: {shown}. Their output is in "
                f"{self.folder / 'logs'}; the same command tries them again."
            )

    def describe(self) -> None:
        """Print the trials, what each would do, and one whole command; write nothing."""
        before = read_sweep(self.folder)
        if before is not None:
            self._require_same_sweep()
        for number, point in enumerate(self.points, start=1):
            if completed_record(self.folder / point.name):
                state = "done"
            elif (self.folder / point.name / "last_checkpoint").is_file():
                state = "to resume"
            else:
                state = "to run"
            print(f"[{number}/{len(self.points)}] {point.name}: {state}")
        print(f"each like: {shlex.join(self.command(self.points[0], 'starting'))}")
