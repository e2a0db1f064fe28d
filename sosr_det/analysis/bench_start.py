"""Seconds from the start of ``sosr-det train`` to its first training batch, by stage and by part of the start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.errors import ConfigError

# stage -> config, folder below the demo data, options; drawn weights, so that no registry is needed
STAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "classification": ("demo/resnet18_sosr_1xb32-6e_demo-imagenet", "imagenet", ()),
    "detection": (
        "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc",
        "VOCdevkit",
        ("--backbone", "random"),
    ),
}
LIMITS_S = {"classification": 10.0, "detection": 15.0}
MARKS = ("imported", "built", "first_batch", "first_step")

# Runs the command line in a process of its own and says when it got how far; after the first step it is interrupted.
_PROBE = """
import sys, time

marks = open(sys.argv[1], "w")

def mark(name):
    if name not in seen:
        seen.add(name)
        print(name, time.monotonic(), time.process_time(), file=marks, flush=True)

seen = set()
from mmengine.runner import Runner

call_hook, train = Runner.call_hook, Runner.train

def watched_call_hook(self, name, **arguments):
    if name == "before_train_iter":
        mark("first_batch")
    call_hook(self, name, **arguments)
    if name == "after_train_iter":
        mark("first_step")
        raise KeyboardInterrupt

def watched_train(self):
    mark("built")
    return train(self)

Runner.call_hook, Runner.train = watched_call_hook, watched_train
from sosr_det.cli.main import main
import sosr_det.register
mark("imported")
main(sys.argv[2:])
"""


def bench_start(data: Path, stages: Sequence[str] = (), repeats: int = 3) -> dict[str, Any]:
    """Start training ``repeats`` times per stage, in turns.

    Args:
        data: what ``sosr-det data demo --out`` made.
        stages: keys of :data:`STAGES`; none means all.
        repeats: at least 1.

    Returns:
        stage -> ``dict(limit_s, <mark>_s: median seconds since the process was started, first_batch_cpu_s: median of
        the processor time that it took itself up to the first batch, which depends less on what else the machine
        does, first_batch_s_all=[...])``.

    Raises:
        ConfigError: an unknown stage, no demo data there, a training that ended before its first step.
    """
    chosen = list(stages) or list(STAGES)
    for stage in chosen:
        if stage not in STAGES:
            raise ConfigError(f"--stage must be one of {', '.join(STAGES)}, got {stage!r}")
        if not (data / STAGES[stage][1]).is_dir():
            raise ConfigError(
                f"no {STAGES[stage][1]} in {data}: make demo data with `sosr-det data demo --out {data}`."
            )
    taken: dict[str, list[dict[str, float]]] = {stage: [] for stage in chosen}
    for _ in range(repeats):
        for stage in chosen:
            taken[stage].append(time_start(data, stage))
    return {
        stage: {
            "limit_s": LIMITS_S[stage],
            **{f"{mark}_s": statistics.median(run[mark] for run in runs) for mark in MARKS},
            "first_batch_cpu_s": statistics.median(run["first_batch_cpu"] for run in runs),
            "first_batch_s_all": [run["first_batch"] for run in runs],
        }
        for stage, runs in taken.items()
    }


def time_start(data: Path, stage: str) -> dict[str, float]:
    """One start: mark -> seconds since the process was started, and ``first_batch_cpu``.

    Raises:
        ConfigError: it ended before its first step; its last lines are told.
    """
    config, folder, options = STAGES[stage]
    with tempfile.TemporaryDirectory(prefix="sosr_bench_start_") as name:
        marks = Path(name, "marks")
        command = [
            *(sys.executable, "-c", _PROBE, str(marks), "train", config),
            *(
                "--data-root",
                str(data / folder),
                "--work-dir",
                str(Path(name, "run")),
                "--no-publish",
                *options,
            ),
        ]
        began = time.monotonic()
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        lines = marks.read_text().splitlines() if marks.is_file() else []
        found = {mark: (float(wall), float(cpu)) for mark, wall, cpu in map(str.split, lines)}
    if set(found) != set(MARKS):
        last = "\n".join(run.stdout.splitlines()[-5:])
        raise ConfigError(f"the {stage} stage ended before its first step (exit {run.returncode}):\n{last}")
    return {mark: found[mark][0] - began for mark in MARKS} | {"first_batch_cpu": found["first_batch"][1]}


def report_lines(results: dict[str, Any]) -> list[str]:
    """A table for the terminal."""
    lines = ["seconds since the start of the process, and its processor time up to the first batch (medians)"]
    marks = "".join(f"{mark.replace('_', ' '):>13}" for mark in MARKS)
    lines.append(f"  {'stage':<16}{marks}{'CPU s':>8}{'limit':>8}")
    for stage, row in results.items():
        values = "".join(f"{row[f'{mark}_s']:>13.2f}" for mark in MARKS)
        lines.append(f"  {stage:<16}{values}{row['first_batch_cpu_s']:>8.2f}{row['limit_s']:>8.0f}")
    return lines
