"""``sosr-det compare``: trains and tests every arm with every seed, each as a process of its own, resumable."""

from __future__ import annotations

import os
import queue
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.compare.arms import make_arms
from sosr_det.engine.compare.cell import (
    CellFailed,
    read_done,
    run_cell,
    state,
    train_command,
    training_mode,
)
from sosr_det.engine.compare.preflight import check_arms
from sosr_det.engine.compare.study import (
    CLASSIFICATION,
    DETECTION,
    METRICS,
    Cell,
    Study,
    read_study,
    require_same_study,
)
from sosr_det.engine.configs import bare_type, load_config
from sosr_det.engine.signals import sigterm_unwinds
from sosr_det.engine.studies.process import Processes, hold_lock
from sosr_det.engine.studies.seeds import parse_seeds
from sosr_det.errors import ConfigError

_EVALUATORS = {"VOCDevkitMetric": DETECTION, "ClassificationMetric": CLASSIFICATION}


@dataclass
class CompareOptions:
    """What to compare, and what is the same for every run; see ``sosr-det compare --help``."""

    configs: Sequence[str]
    backbones: Sequence[str] = ()
    seeds: str = "0,1,2"
    work_dir: Path | None = None
    jobs: int | None = None
    devices: Sequence[str] = ()
    extend: bool = False
    dry_run: bool = False
    data_root: Path | None = None
    classes: str | None = None
    total_epochs: int | None = None
    select_on: str | None = None
    amp: bool = False
    allow: Sequence[str] = ()
    registry: str | Path | None = None
    metric: str | None = None
    cfg_options: Sequence[str] = field(default_factory=list)


def run_comparison(options: CompareOptions) -> tuple[Study, dict[str, CellFailed]]:
    """Run what is missing of a comparison; returns it, and the failures of this call by the name of the run.

    May be killed at any moment and started again with the same options: finished runs are kept, an unfinished one is
    resumed from its checkpoint or started over. Several processes may work on the same folder; a run is locked while
    it runs, also by the training process itself, which may outlive this one.

    Raises:
        ConfigError: arms that cannot be compared, or another comparison than the one the folder holds.
        SosrError: backbones that cannot be found.
    """
    devices = visible_devices(options.devices)
    study = _plan(options)
    if options.dry_run:
        describe(study)
        return study, {}
    failures: dict[str, CellFailed] = {}
    _work(study, options, devices, failures)
    return study, failures


def _plan(options: CompareOptions) -> Study:
    if options.registry is not None:
        os.environ["SOSR_REGISTRY"] = str(options.registry)
    import sosr_det.register  # noqa: F401  names in the config must be known before it loads

    if any(override.startswith("randomness.seed=") for override in options.cfg_options):
        raise ConfigError("--cfg-options randomness.seed: every run has a seed of its own; use --seeds.")
    configs = [(name, load_config(name, options.cfg_options)) for name in options.configs]
    kinds = {name: _kind(name, cfg) for name, cfg in configs}
    if len(set(kinds.values())) > 1:
        raise ConfigError(f"these configs are not tested in the same way: {', '.join(kinds)}.")
    kind = next(iter(kinds.values()))
    folder = Path(options.work_dir or Path("work_dirs") / f"compare_{Path(options.configs[0]).stem}")
    before = read_study(folder)
    pinned = dict(before.pinned) if before else {}
    arms = make_arms(configs, options.backbones, pinned, before.arms if before else ())
    study = Study(folder, kind, arms, list(parse_seeds(options.seeds)), _shared(options), pinned)
    if before is not None:
        study.grown = before.grown + require_same_study(before, study, extend=options.extend)
    if options.metric is not None and options.metric not in METRICS[kind]:
        raise ConfigError(f"--metric {options.metric}: this comparison has {', '.join(METRICS[kind])}.")
    if any(read_done(cell) is None for cell in study.cells()):
        check_arms(configs, arms, options)
    return study


def _shared(options: CompareOptions) -> dict[str, Any]:
    return {
        "data_root": None if options.data_root is None else str(options.data_root),
        "classes": options.classes,
        "total_epochs": options.total_epochs,
        "select_on": options.select_on,
        "amp": options.amp,
        "allow": list(options.allow),
        "registry": None if options.registry is None else str(options.registry),
        "cfg_options": list(options.cfg_options),
    }


def _kind(name: str, cfg: Any) -> str:
    """Which predictions the config's tests leave.

    Raises:
        ConfigError: the config's tests have no evaluator of this project.
    """
    evaluators = cfg.get("test_evaluator")
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators or {}]:
        kind = _EVALUATORS.get(bare_type(evaluator.get("type")))
        if kind:
            return kind
    raise ConfigError(
        f"{name}: a comparison needs the predictions of every image, which the evaluators "
        f"{' and '.join(_EVALUATORS)} save; this config's test_evaluator is another."
    )


def describe(study: Study) -> None:
    """Print the runs, the state of each and the command of each arm's first; write nothing."""
    cells = list(study.cells())
    for number, cell in enumerate(cells, start=1):
        print(f"[{number}/{len(cells)}] {cell.name}: {state(cell)}")
    for arm in study.arms:
        print(f"{arm.name}: {arm.backbone or 'no weights'} = {arm.weights}")
        print(f"  {shlex.join(train_command(study, study.cell(arm, study.seeds[0]), 'starting'))}")


def visible_devices(devices: Sequence[str]) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` is for a run on each of ``--devices``.

    Where that variable is set already (by a cluster, say), the numbers count within it, as torch's do: with ``4,5``,
    device 1 is GPU 5, and no other GPU is touched.

    Raises:
        ConfigError: no number, one given twice, or one that the variable does not leave.
    """
    wrong = next((each for each in devices if not (each.isascii() and each.isdigit())), None)
    if wrong is not None or len({int(each) for each in devices}) < len(devices):
        raise ConfigError(
            f"--devices {','.join(devices)}: expected numbers of GPUs, each once, such as 0,1; got "
            f"{'one twice' if wrong is None else repr(wrong)}."
        )
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if before is None:
        return list(devices)
    left = [each.strip() for each in before.split(",") if each.strip()]
    left = left[: left.index("-1")] if "-1" in left else left  # CUDA sees none of those after it
    gone = [each for each in devices if int(each) >= len(left)]
    if gone:
        raise ConfigError(
            f"--devices {','.join(devices)}: CUDA_VISIBLE_DEVICES={before} leaves {len(left)} GPU(s), numbered from 0; "
            f"there is no {', '.join(gone)}. Give smaller numbers, or change the variable."
        )
    return [left[int(each)] for each in devices]


@sigterm_unwinds()  # so that the running trainings are stopped too
def _work(study: Study, options: CompareOptions, devices: list[str], failures: dict[str, CellFailed]) -> None:
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the comparison's folder {study.folder} cannot be made: {error}") from error
    with hold_lock(study.folder / ".locks" / "folder.lock", wait=True):
        before = read_study(study.folder)  # another process may have begun it since
        if before is not None:
            require_same_study(before, study, extend=options.extend)
        study.write()
    jobs = options.jobs or max(1, len(devices))
    pool = _Pool(study, failures)
    pool.run(jobs, devices)


class _Pool:
    """Threads that each take the next run, and wait for its process."""

    def __init__(self, study: Study, failures: dict[str, CellFailed]) -> None:
        self.study = study
        self.failures = failures
        self.cells = list(study.cells())
        self.processes = Processes()
        self.todo: queue.SimpleQueue[tuple[int, Cell]] = queue.SimpleQueue()
        self.busy_elsewhere: list[tuple[int, Cell]] = []
        self.unexpected: list[BaseException] = []

    def run(self, jobs: int, devices: list[str]) -> None:
        for item in enumerate(self.cells, start=1):
            self.todo.put(item)
        self._threads(jobs, devices, wait=False)
        # Runs of other processes, maybe of one that was killed while its training goes on, are waited for last.
        for item in self.busy_elsewhere:
            self.todo.put(item)
        self._threads(jobs, devices, wait=True)

    def _threads(self, jobs: int, devices: list[str], *, wait: bool) -> None:
        threads = [
            threading.Thread(
                target=self._take, args=(devices[i % len(devices)] if devices else None, wait), daemon=True
            )
            for i in range(min(jobs, max(1, self.todo.qsize())))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():  # with a timeout, so that signals are handled
                    thread.join(0.2)
        except BaseException:
            self.processes.stop()
            raise
        if self.unexpected:
            raise self.unexpected[0]

    def _take(self, device: str | None, wait: bool) -> None:
        while not self.unexpected:
            try:
                number, cell = self.todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._one(number, cell, device, wait)
            except BaseException as error:
                self.unexpected.append(error)

    def _one(self, number: int, cell: Cell, device: str | None, wait: bool) -> None:
        label = f"[{number}/{len(self.cells)}] {cell.name}"
        if read_done(cell):
            print(f"{label}: done before", flush=True)
            return
        name = f"{cell.arm.name}_seed-{cell.seed}.lock"
        with hold_lock(self.study.folder / ".locks" / name, wait=wait) as lock:
            if lock is None:
                print(f"{label}: another process is running it; waiting for it at the end", flush=True)
                self.busy_elsewhere.append((number, cell))
                return
            if read_done(cell):
                print(f"{label}: done by another process", flush=True)
                return
            where = "" if device is None else f" on device {device}"
            doing = state(cell)
            doing = training_mode(cell) if doing.startswith("to ") else "testing"
            print(f"{label}: {doing}{where}", flush=True)
            environment = None if device is None else {"CUDA_VISIBLE_DEVICES": device}
            try:
                done = run_cell(self.study, cell, self.processes, lock, environment)
            except CellFailed as error:
                self.failures[cell.name] = error
                print(f"{label}: failed: {error} (log: {error.log})", flush=True)
                return
            print(f"{label}: {headline(done['metrics'])}", flush=True)


def headline(metrics: dict[str, float | None]) -> str:
    """The one or two metrics that stand for a test; ``unknown`` where one is null, which is how NaN is recorded."""

    def shown(value: float | None, factor: float, ending: str) -> str:
        return "unknown" if value is None else f"{factor * value:{ending}}"

    for names, factor in ((("voc/map_11point", "voc/map_area"), 100.0), (("accuracy/top1",), 1.0)):
        if names[0] in metrics:
            return ", ".join(
                f"{name} {shown(metrics[name], factor, '.2f')} %" for name in names if name in metrics
            )
    return ", ".join(f"{name} {shown(value, 1.0, '.4f')}" for name, value in list(metrics.items())[:2])
