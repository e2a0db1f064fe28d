"""What a split holds, in numbers that a user compares with the published ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ClassCounts:
    """One class in one split.

    Attributes:
        objects: all of them.
        difficult: those marked difficult, which are neither learned nor counted in the evaluation.
        truncated: those marked truncated.
        images: images that show at least one, difficult or not.
    """

    objects: int = 0
    difficult: int = 0
    truncated: int = 0
    images: int = 0


@dataclass
class SplitObjects:
    """The objects of one split, as written in the annotations that can be read.

    Attributes:
        classes: by name, exactly as written.
        without_objects: images whose annotation has no object.
    """

    classes: dict[str, ClassCounts] = field(default_factory=dict)
    without_objects: int = 0

    def add(self, objects: list[tuple[str, bool, bool]]) -> None:
        """Count one image's objects: (class, difficult, truncated)."""
        self.without_objects += not objects
        for name, difficult, truncated in objects:
            counts = self.classes.setdefault(name, ClassCounts())
            counts.objects += 1
            counts.difficult += difficult
            counts.truncated += truncated
        for name in {name for name, _, _ in objects}:
            self.classes[name].images += 1

    def total(self, what: str) -> int:
        """Sum of a field of :class:`ClassCounts` over the classes."""
        return sum(getattr(counts, what) for counts in self.classes.values())

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON."""
        return {
            "objects": self.total("objects"),
            "difficult_objects": self.total("difficult"),
            "truncated_objects": self.total("truncated"),
            "images_without_objects": self.without_objects,
            "objects_by_class": {name: vars(counts) for name, counts in sorted(self.classes.items())},
        }


class Notes:
    """Observations of the same sort from many files, told in one line each with their number and first places."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, text: str, place: str) -> None:
        """Count one; ``text`` is the same for all of a sort."""
        self._counts[text] += 1
        examples = self._examples.setdefault(text, [])
        if len(examples) < 3:
            examples.append(place)

    def lines(self) -> list[str]:
        """One line for each sort, in the order of their first appearance."""
        return [
            f"{count:,} × {text}: {', '.join(self._examples[text])}{', …' if count > 3 else ''}"
            for text, count in self._counts.items()
        ]
