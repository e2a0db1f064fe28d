"""Comparing what was found with the official counts."""

from __future__ import annotations

from sosr_det.data.prepare.catalogue import DatasetEntry
from sosr_det.data.prepare.inspection import Inspection, Problem, Split


def compare_with_official(found: Inspection, entry: DatasetEntry) -> tuple[list[Problem], list[Problem]]:
    """Return what a subset of the data set may have as well (too few), and what none may have (too many)."""
    few: list[Problem] = []
    many: list[Problem] = []
    for name, official in entry.splits.items():
        split = found.splits.get(name, Split())
        classes = len(split.class_counts)
        if entry.classes is not None and classes != entry.classes:
            reason = f"found {classes:,} of {entry.classes:,} classes"
            (few if classes < entry.classes else many).append(Problem("count", name, reason))
        if split.images != official.images:
            reason = f"found {split.images:,} of {official.images:,} images"
            (few if split.images < official.images else many).append(Problem("count", name, reason))
        if official.images_per_class is not None:
            _compare_classes(name, split, official.images_per_class, few, many)
    return few, many


def _compare_classes(name: str, split: Split, expected: int, few: list[Problem], many: list[Problem]) -> None:
    for problems, differing in (
        (few, {c: n for c, n in split.class_counts.items() if n < expected}),
        (many, {c: n for c, n in split.class_counts.items() if n > expected}),
    ):
        if differing:
            shown = ", ".join(f"{c} has {n}" for c, n in sorted(differing.items())[:3])
            dots = ", …" if len(differing) > 3 else ""
            reason = f"{len(differing)} classes do not have {expected} images each: {shown}{dots}"
            problems.append(Problem("count", name, reason))
