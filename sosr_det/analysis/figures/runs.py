"""The recorded dynamics of several runs, in groups that differ in their seed only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.analysis.run_settings import UNSET, differences, run_settings
from sosr_det.engine.dynamics_record import DYNAMICS_FILE, read_dynamics, read_features
from sosr_det.engine.run_record import FILE_NAME as RUN_RECORD_FILE
from sosr_det.engine.run_record import read_run_record
from sosr_det.errors import CheckpointError, ConfigError

# What must agree before numbers of two runs may be averaged.
_MUST_AGREE = ("loss", "num_classes", "probabilities", "max_samples", "num_bins")


@dataclass
class Run:
    """One run's record; ``features`` are those of ``features_2d.npz`` or None."""

    path: Path
    record: dict[str, Any]
    features: dict[str, Any] | None

    @property
    def last(self) -> dict[str, Any]:
        """The entry of the last recorded epoch."""
        return self.record["epochs"][-1]


@dataclass
class Group:
    """Runs of one config, which differ in their seed."""

    label: str
    runs: list[Run]

    @property
    def legend(self) -> str:
        """Label and number of runs."""
        return f"{self.label} (n={len(self.runs)})"

    def origin(self) -> dict[str, Any]:
        """What a figure's data file says of where its numbers come from."""
        return {
            "label": self.label,
            "num_runs": len(self.runs),
            "runs": [str(run.path) for run in self.runs],
            "seeds": [run.record["seed"] for run in self.runs],
            "thresholds": sorted({entry["threshold"] for run in self.runs for entry in run.record["epochs"]}),
        }


def load_groups(paths: Iterable[Path], labels: Sequence[str] | None = None) -> list[Group]:
    """Read runs and group those of one config name, in the order in which the configs first appear.

    Args:
        paths: run folders, or folders that hold run folders.
        labels: one per group, instead of the config names.

    Raises:
        CheckpointError: no run there, or one without recorded dynamics.
        ConfigError: runs of one config name that have the same seed or differ in more than it, or another number of
            labels.
    """
    by_name: dict[str, list[Run]] = {}
    for folder in run_folders(paths):
        record = read_dynamics(folder)
        if not record["epochs"]:
            raise CheckpointError(f"{folder / DYNAMICS_FILE} holds no epoch yet; let the run finish one.")
        by_name.setdefault(record["config_name"], []).append(Run(folder, record, read_features(folder)))
    for name, runs in by_name.items():
        _require_other_seeds(name, runs)
        _require_same_settings(name, runs)
        _require_agreement(name, runs)
    if labels is not None and len(labels) != len(by_name):
        raise ConfigError(
            f"--labels names {len(labels)} groups, but the runs have {len(by_name)} configs: {', '.join(by_name)}"
        )
    return [
        Group(label, runs)
        for label, runs in zip(labels or _shortened(list(by_name)), by_name.values(), strict=True)
    ]


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """The run folders among and below the paths, each once.

    Raises:
        CheckpointError: a path without any.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        names = (DYNAMICS_FILE, RUN_RECORD_FILE)
        if any((path / name).is_file() for name in names):
            folders = [path]
        else:
            folders = sorted({file.parent for name in names for file in path.rglob(name)})
        if not folders:
            raise CheckpointError(
                f"no run in {path}: expected the work directory of `sosr-det train`, or a folder of such."
            )
        found |= {folder.resolve(): folder for folder in folders if folder.resolve() not in found}
    return list(found.values())


def _require_other_seeds(name: str, runs: list[Run]) -> None:
    seeds = [run.record["seed"] for run in runs]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        folders = ", ".join(str(run.path) for run in runs if run.record["seed"] == twice)
        raise ConfigError(
            f"{name}: seed {twice} was run more than once ({folders}); a repeated seed is not another sample, and the "
            "shaded spread would be too small. Draw one of them, or each in a call of its own."
        )


def _require_same_settings(name: str, runs: list[Run]) -> None:
    """By the resolved configs, of the runs that have their record beside the dynamics."""
    recorded = [run.path for run in runs if (run.path / RUN_RECORD_FILE).is_file()]
    settings = [run_settings(read_run_record(path), path / RUN_RECORD_FILE) for path in recorded]
    for path, other in zip(recorded[1:], settings[1:], strict=True):
        differing = differences([settings[0], other])
        if differing:
            raise _no_repetitions(
                name,
                (recorded[0], path),
                ", ".join(
                    f"{key} ({settings[0].get(key, UNSET)} and {other.get(key, UNSET)})" for key in differing
                ),
            )


def _require_agreement(name: str, runs: list[Run]) -> None:
    def settings(run: Run) -> dict[str, Any]:
        sizes = {f"num_{part}_samples": run.last[part]["num_samples"] for part in ("train", "val")}
        return {key: run.record[key] for key in _MUST_AGREE} | sizes

    first = settings(runs[0])
    for run in runs[1:]:
        differing = {key: (first[key], value) for key, value in settings(run).items() if value != first[key]}
        if differing:
            raise _no_repetitions(name, (runs[0].path, run.path), json.dumps(differing))


def _no_repetitions(name: str, paths: tuple[Path, Path], differing: str) -> ConfigError:
    return ConfigError(
        f"{paths[0]} and {paths[1]} are both runs of {name}, but differ in {differing}: they are no repetitions of one "
        "experiment. Draw them in separate calls, or train under two config names."
    )


def _shortened(names: list[str]) -> list[str]:
    """Config names without the parts that they all share, for legends; unchanged where nothing would remain."""
    parts = [name.split("_") for name in names]
    shared = set(parts[0]).intersection(*parts[1:])
    short = ["_".join(part for part in own if part not in shared) for own in parts]
    return short if all(short) and len(set(short)) == len(names) > 1 else names


def value_at(run: Run, epoch: int, pick: Callable[[dict[str, Any]], float | None]) -> float | None:
    """``pick`` of the entry of an epoch, None if the run has no such epoch or no such value."""
    entry = next((entry for entry in run.record["epochs"] if entry["epoch"] == epoch), None)
    return None if entry is None else pick(entry)
