"""What was found in a data set's folder: splits, images, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# What `sosr_det.data.classification` reads. Not imported: that module needs torch, and listing files does not.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif"))


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        kind: ``count``, ``classes``, ``missing``, ``empty``, ``undecodable``, ``extension``, ``misplaced``,
            ``unlisted``, ``repeated``, ``malformed`` or ``checksum``; of detection data also those of
            :data:`sosr_det.data.prepare.voc.effects.EFFECTS`.
        path: the file or folder relative to the data set's folder, or the split.
        reason: what is wrong and what was expected.
    """

    kind: str
    path: str
    reason: str


@dataclass
class Split:
    """One split as found.

    Attributes:
        images: number of images.
        files: their files relative to the data set's folder; empty where images are arrays in larger files.
        class_counts: images by class; empty where images have no single class.
    """

    images: int = 0
    files: list[str] = field(default_factory=list)
    class_counts: Counter[str] = field(default_factory=Counter)

    def add(self, file: str, class_name: str) -> None:
        """Count one image file of a class."""
        self.images += 1
        self.files.append(file)
        self.class_counts[class_name] += 1


@dataclass
class Inspection:
    """A data set as found on the disk, before any image is decoded.

    Attributes:
        root: its folder.
        layout: what kind of layout it has, in words.
        splits: what was found, by split.
        problems: what is wrong whatever the size of the data set.
    """

    root: Path
    layout: str
    splits: dict[str, Split] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, kind: str, path: str | Path, reason: str) -> None:
        """Add a problem; a path inside the data set is made relative to it."""
        if isinstance(path, Path) and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        self.problems.append(Problem(kind, str(path), reason))
