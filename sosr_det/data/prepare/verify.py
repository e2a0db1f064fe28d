"""``sosr-det data verify``: is a data set complete, consistent and readable?"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.data.prepare.catalogue import DatasetEntry, dataset_entry
from sosr_det.data.prepare.counts import compare_with_official
from sosr_det.data.prepare.decoding import decode_all
from sosr_det.data.prepare.inspection import Inspection, Problem
from sosr_det.data.prepare.layouts import find_dataset, inspect
from sosr_det.data.prepare.overlap import identical_images
from sosr_det.data.prepare.progress import Progress, no_progress
from sosr_det.errors import ConfigError


@dataclass
class VerifyReport:
    """What was found.

    Attributes:
        entry: the data set.
        folder: its folder.
        layout: the kind of layout, in words.
        found: splits with their images and classes.
        subset_ok: whether fewer images or classes than published count as a note, not as a problem.
        decoded: number of images that were decoded.
        shortfalls: how many of the problems a subset has by its nature.
        problems: everything that is wrong; empty for a sound data set.
        notes: what is worth knowing.
        imagenet: the ImageNet folder that CUB's test images were compared with, or None.
        identical: pairs (CUB test image, ImageNet image) of identical files.
        seconds: time that it took.
    """

    entry: DatasetEntry
    folder: Path
    layout: str
    found: Inspection
    subset_ok: bool
    decoded: int = 0
    shortfalls: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    imagenet: Path | None = None
    identical: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self, max_problems: int) -> dict[str, Any]:
        """The report for JSON; ``problems`` holds the first ``max_problems``, ``problem_count`` counts all."""
        splits = {
            name: {
                "images": split.images,
                "official_images": self.entry.splits[name].images if name in self.entry.splits else None,
                "classes": len(split.class_counts),
                "official_classes": self.entry.classes,
            }
            for name, split in self.found.splits.items()
        }
        overlap = {
            "imagenet": str(self.imagenet),
            "count": len(self.identical),
            "pairs": [{"cub": ours, "imagenet": theirs} for ours, theirs in self.identical],
        }
        return {
            "ok": self.ok,
            "dataset": self.entry.name,
            "folder": str(self.folder),
            "layout": self.layout,
            "subset_ok": self.subset_ok,
            "splits": splits,
            "decoded_images": self.decoded,
            "problem_count": len(self.problems),
            "problem_kinds": dict(sorted(Counter(problem.kind for problem in self.problems).items())),
            "problems": [vars(problem) for problem in self.problems[:max_problems]],
            "notes": self.notes,
            "identical_to_imagenet": overlap if self.imagenet is not None else None,
            "seconds": round(self.seconds, 3),
        }


def verify_dataset(
    name: str,
    root: Path | str,
    *,
    subset_ok: bool = False,
    workers: int | None = None,
    imagenet: Path | None = None,
    progress: Progress = no_progress,
) -> VerifyReport:
    """Check counts, class lists and files of a data set, and decode every image.

    Args:
        name: a name of :data:`~sosr_det.data.prepare.catalogue.CATALOGUE`.
        root: the data set's folder, or the one that holds it under its usual name.
        subset_ok: accept fewer images or classes than published; more are always a problem.
        workers: threads that decode; None means one for each CPU that this process may use.
        imagenet: for ``cub200``: ImageNet's folder. None means the one beside CUB, if there is one.
        progress: told how many images are done.

    Raises:
        ConfigError: unknown name, fewer than one worker, or ``imagenet`` given for another data set.
        DataError: the data set, or the ``imagenet`` that was named, is not there at all.
    """
    started = time.monotonic()
    entry = dataset_entry(name)
    workers = _available_cpus() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if imagenet is not None and entry.layout != "cub200":
        raise ConfigError(f"--imagenet is for cub200, whose test images are looked up there; got {name}.")
    folder = find_dataset(entry, Path(root))
    imagenet = _imagenet_folder(entry, folder, imagenet)

    found = inspect(entry, folder)
    report = VerifyReport(entry, folder, found.layout, found, subset_ok)
    few, many = compare_with_official(found, entry)
    if entry.layout == "imagenet":
        few += _unknown_imagenet_classes(found)
    if subset_ok:
        report.notes += [f"{problem.path}: {problem.reason}" for problem in few]
    else:
        report.shortfalls = len(few)
        report.problems += few
    report.problems += many + found.problems

    files = list(dict.fromkeys(file for split in found.splits.values() for file in split.files))
    decoding = decode_all(folder, files, workers, progress)
    arrays = sum(split.images for split in found.splits.values() if not split.files)
    report.decoded = decoding.decoded + arrays
    report.problems += decoding.problems
    report.notes += decoding.other_format

    if imagenet is not None:
        report.imagenet = imagenet
        report.identical = identical_images(folder, found.splits["test"].files, imagenet, workers, progress)
    report.seconds = time.monotonic() - started
    return report


def _imagenet_folder(entry: DatasetEntry, folder: Path, asked: Path | None) -> Path | None:
    if entry.layout != "cub200":
        return None
    official = dataset_entry("imagenet")
    if asked is not None:
        return find_dataset(official, asked)
    beside = folder.absolute().parent / official.folder
    return beside if (beside / "train").is_dir() or (beside / "val").is_dir() else None


def _unknown_imagenet_classes(found: Inspection) -> list[Problem]:
    from timm.data import ImageNetInfo

    known = set(ImageNetInfo().label_names())
    problems = []
    for name, split in found.splits.items():
        if unknown := sorted(set(split.class_counts) - known):
            reason = f"{len(unknown)} class folders are no classes of ImageNet-1k: {', '.join(unknown[:3])}"
            problems.append(Problem("classes", name, reason))
    return problems


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
