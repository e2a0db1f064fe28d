"""Trials of many families, each in a process of its own, so that none can end the sweep or disturb the next."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.analysis.zoo.families import Family
from sosr_det.analysis.zoo.result import Trial

STARTUP_LIMIT = 300.0  # seconds for a process to come up; the first waits for the import of MMDetection


@dataclass(frozen=True)
class Sweep:
    """What is tried, and within which bounds.

    Attributes:
        uri: of the backbone.
        registry_root: the registry that has it.
        image_size: side of the images, pixels.
        time_limit: seconds for one family, from when its process has started to work.
        memory_limit: GiB of data for one family's process (Linux only).
        jobs: families at a time.
    """

    uri: str
    registry_root: str
    image_size: int = 128
    time_limit: float = 300.0
    memory_limit: float = 8.0
    jobs: int = 1

    def run(self, families: Sequence[Family], on_result: Callable[[Trial], None]) -> None:
        """Try every family; ``on_result`` gets each trial as it ends, in any order.

        Only families with a config are tried. When this is interrupted, the processes that run are ended.
        """
        waiting = [family for family in families if family.config]
        running: list[_Running] = []
        context = _context()
        with tempfile.TemporaryDirectory() as folder:
            try:
                while waiting or running:
                    while waiting and len(running) < self.jobs:
                        running.append(_Running(context, self, waiting.pop(0), Path(folder)))
                    for one in [one for one in running if one.ended(self.time_limit)]:
                        running.remove(one)
                        on_result(one.result())
                    time.sleep(0.05)
            finally:
                for one in running:
                    one.stop()


class _Running:
    """A family's process."""

    def __init__(self, context: Any, sweep: Sweep, family: Family, folder: Path) -> None:
        self.trial = Trial(family.name, str(family.config))
        self.file = folder / f"{family.name}.json"
        self.log = folder / f"{family.name}.log"
        self.started: float | None = None
        self.deadline = time.monotonic() + STARTUP_LIMIT
        self.too_long: float | None = None
        self.process = context.Process(
            target=_try_family, args=(sweep, self.trial.to_dict(), str(self.file), str(self.log)), daemon=True
        )
        self.process.start()

    def ended(self, time_limit: float) -> bool:
        if self.started is None and self.file.exists():
            self.started = time.monotonic()
            self.deadline = self.started + time_limit
        if self.process.is_alive() and time.monotonic() > self.deadline:
            self.too_long = STARTUP_LIMIT if self.started is None else time_limit
            self.stop()
        return not self.process.is_alive()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def result(self) -> Trial:
        """What the process wrote; if it did not come to its end, what is known of that."""
        self.process.join()
        stage, trial = "load", self.trial
        if self.file.is_file():
            written = json.loads(self.file.read_text())
            stage, trial = written["stage"], Trial.from_dict(written["trial"])
            if stage is None:
                return trial
        trial.failed = stage
        if self.too_long is not None:
            trial.reason = f"took longer than {self.too_long:g} s"
        else:
            trial.reason = f"the process ended with {_exit_text(self.process.exitcode)}{self._last_words()}"
        return trial

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:200]}" if last else ""


def _try_family(sweep: Sweep, trial: dict, file: str, log: str) -> None:
    """What the process does."""
    _write_to(log)
    _limit_memory(sweep.memory_limit)
    _share_cores(sweep.jobs)
    # By its name, as a config would: it gives mmcv its ops, and has to come before mmdet is imported.
    importlib.import_module("sosr_det.register")
    from sosr_det.analysis.zoo.trial import run_trial

    def write(trial: Trial, stage: str | None) -> None:
        part = Path(f"{file}.part")
        part.write_text(json.dumps({"stage": stage, "trial": trial.to_dict()}))
        part.replace(file)

    result = run_trial(
        Trial.from_dict(trial), sweep.uri, sweep.registry_root, image_size=sweep.image_size, on_stage=write
    )
    write(result, None)


def _context() -> Any:
    """Processes forked from one that has imported everything; where a system has none, each imports for itself."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sosr_det.analysis.zoo.preload"])
    return context


def _write_to(log: str) -> None:
    """Send everything that the process prints to a file: there is much of it, and it is of use only after a crash."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _limit_memory(gib: float) -> None:
    if sys.platform != "linux":
        return
    import resource

    size = int(gib * 2**30)
    # Address space would count what torch reserves and never touches.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _share_cores(jobs: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _exit_text(code: int | None) -> str:
    if code is None or code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
