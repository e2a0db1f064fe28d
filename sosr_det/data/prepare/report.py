"""What ``sosr-det data verify`` found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.data.prepare.catalogue import DatasetEntry
from sosr_det.data.prepare.inspection import Inspection, Problem
from sosr_det.data.prepare.voc.effects import effects_of
from sosr_det.data.prepare.voc.summary import SplitObjects


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
        objects: of detection data: what each split holds; empty for other data.
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
    objects: dict[str, SplitObjects] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def effects(self) -> dict[str, str]:
        """Of detection data: what training does about the kinds of problems that are there."""
        return effects_of(problem.kind for problem in self.problems) if self.objects else {}

    def as_dict(self, max_problems: int | None = None) -> dict[str, Any]:
        """The report for JSON; ``problems`` holds the first ``max_problems`` or all, ``problem_count`` counts all."""
        splits = {
            name: {
                "images": split.images,
                "official_images": self.entry.splits[name].images if name in self.entry.splits else None,
                "classes": len(self.objects[name].classes if name in self.objects else split.class_counts),
                "official_classes": self.entry.classes,
                **(self.objects[name].as_dict() if name in self.objects else {}),
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
            "effects_on_training": self.effects,
            "notes": self.notes,
            "identical_to_imagenet": overlap if self.imagenet is not None else None,
            "seconds": round(self.seconds, 3),
        }
