"""What a comparison is: its arms, seeds and options, written down before the first run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.compare.arms import Arm
from sosr_det.engine.run_record import FILE_NAME as RUN_RECORD
from sosr_det.engine.studies.records import replace_text
from sosr_det.errors import ConfigError

FILE_NAME = "study.json"
SCHEMA_VERSION = 1

# Where things lie may change: data have fingerprints in the run records, and weights are pinned by digest.
_PLACES = ("data_root", "registry")

DETECTION, CLASSIFICATION = "detection", "classification"
METRICS = {DETECTION: ("map_11point", "map_area"), CLASSIFICATION: ("top1",)}  # the first is the verdict's
# The file that a test leaves for each kind, and the key of the evaluator's argument that names it.
PREDICTIONS = {DETECTION: "detections.npz", CLASSIFICATION: "predictions.npz"}


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: the folders of its run and of its test."""

    arm: Arm
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm.name}/seed-{self.seed}"

    @property
    def run_dir(self) -> Path:
        return self.folder / "train"

    @property
    def test_dir(self) -> Path:
        return self.folder / "test"


@dataclass
class Study:
    """A comparison's plan.

    Attributes:
        folder: of the comparison.
        kind: ``detection`` or ``classification``, which says what a test leaves.
        arms: the first is what the others are compared with.
        seeds: every arm runs with each.
        options: what is the same for every run, as the command line gave it.
        pinned: weights and digest of each backbone, as found when the comparison began.
        grown: how often arms or seeds were added after it had begun.
    """

    folder: Path
    kind: str
    arms: list[Arm]
    seeds: list[int]
    options: dict[str, Any]
    pinned: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    grown: int = 0

    def cells(self) -> Iterator[Cell]:
        """Every run; all arms of one seed before the next seed, so that an interrupted comparison holds whole pairs."""
        for seed in self.seeds:
            for arm in self.arms:
                yield self.cell(arm, seed)

    def cell(self, arm: Arm, seed: int) -> Cell:
        return Cell(arm, seed, self.folder / "runs" / arm.name / f"seed-{seed}")

    def write(self) -> None:
        """Replace ``study.json``."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "arms": [arm.to_dict() for arm in self.arms],
            "seeds": self.seeds,
            "options": self.options,
            "pinned": {uri: list(each) for uri, each in self.pinned.items()},
            "grown": self.grown,
        }
        replace_text(self.folder / FILE_NAME, json.dumps(content, indent=1) + "\n")


def read_study(folder: Path) -> Study | None:
    """The comparison that a folder holds, or None.

    Raises:
        ConfigError: the folder holds a run, or a file that is no comparison's.
    """
    path = Path(folder) / FILE_NAME
    if (Path(folder) / RUN_RECORD).exists():
        raise ConfigError(f"{folder} holds a run, not a comparison; use another --work-dir.")
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{path} has schema version {version}, this sosr-det reads {SCHEMA_VERSION}; use another --work-dir."
            )
        return Study(
            Path(folder),
            content["kind"],
            [Arm(**arm) for arm in content["arms"]],
            [int(seed) for seed in content["seeds"]],
            dict(content["options"]),
            {uri: (each[0], each[1]) for uri, each in content["pinned"].items()},
            int(content["grown"]),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is no comparison's file ({error}); use another --work-dir.") from error


def require_same_study(before: Study, now: Study, *, extend: bool) -> bool:
    """Whether ``now`` adds arms or seeds to ``before``, of which it must be a continuation.

    Raises:
        ConfigError: anything changed that makes new runs incomparable with finished ones, something is missing, or
            something was added without ``extend``.
    """
    changed = [
        key for key in now.options if key not in _PLACES and before.options.get(key) != now.options[key]
    ]
    if changed or before.kind != now.kind:
        shown = "; ".join(f"{key}: {before.options.get(key)} became {now.options[key]}" for key in changed)
        raise ConfigError(
            f"the options of the comparison in {now.folder} changed since it began ({shown or 'another kind'}), so new "
            "runs would not be comparable with the finished ones. Use another --work-dir."
        )
    ours = {arm.name: arm for arm in now.arms}
    for arm in before.arms:
        new = ours.get(arm.name)
        if new is None:
            raise ConfigError(
                f"{now.folder} holds a comparison with the arm {arm.name}, which is not asked for now. A comparison "
                "only grows: name its configs and backbones too, or use another --work-dir."
            )
        if new != arm:
            what = "config" if new.config_digest != arm.config_digest else "config's name or its weights"
            raise ConfigError(
                f"the {what} of arm {arm.name} changed since the comparison in {now.folder} began, so new runs would "
                "not be comparable with the finished ones. Use another --work-dir."
            )
    if before.arms[0].name != now.arms[0].name:
        raise ConfigError(
            f"the first arm, which the others are compared with, was {before.arms[0].name}; keep it first."
        )
    lost = [seed for seed in before.seeds if seed not in now.seeds]
    if lost:
        raise ConfigError(
            f"{now.folder} holds a comparison with the seeds {', '.join(map(str, before.seeds))}; asked for is one "
            f"without {', '.join(map(str, lost))}. Leaving out runs that were made would bias the result: give all of "
            "them, or use another --work-dir."
        )
    larger = len(now.arms) > len(before.arms) or len(now.seeds) > len(before.seeds)
    if larger and not extend:
        raise ConfigError(
            f"{now.folder} holds a smaller comparison ({len(before.arms)} arms, seeds "
            f"{', '.join(map(str, before.seeds))}). Add --extend to run the new ones beside the finished ones, or use "
            "another --work-dir."
        )
    return larger
