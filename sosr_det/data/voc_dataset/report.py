"""What loading a VOC data set found and changed, and how the log says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_NUM_EXAMPLES = 5


@dataclass
class VOCLoadReport:
    """What loading a VOC data set found and changed. Counts are over the images that are loaded.

    Attributes:
        num_listed: Images in the list.
        num_other_part: Of those, not loaded because ``holdout`` gives them to the other part.
        num_skipped: Of the rest, left out because they cannot be used (``on_problem='skip'``).
        skipped: Which ones: ``(file, reason)``.
        num_images: Images that are loaded: the rest of that.
        num_images_filtered: Of those, left out by ``filter_cfg`` (no boxes at all, or too small an image).
        num_boxes: Boxes of the configured classes that are kept, with those marked to be ignored.
        num_difficult: Of those, marked difficult in the XML.
        num_truncated: Of those, marked truncated in the XML.
        num_ignored_small: Of those, not difficult, but ignored because of ``bbox_min_size``.
        num_clipped: Of those, cut off at the image's border.
        num_degenerate: Boxes left out because ``xmax <= xmin`` or ``ymax <= ymin``.
        degenerate: Where these are: ``(XML file, class, [xmin, ymin, xmax, ymax])``; coordinates as in the file, but
            without fractions.
        num_outside: Boxes left out because nothing of them lies inside the image.
        outside: Where these are, in the same form.
        unknown_classes: Class names that are not configured, with their number of boxes.
        boxes_per_class: Kept boxes by configured class, in the configured order.
    """

    num_listed: int = 0
    num_other_part: int = 0
    num_skipped: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    num_images: int = 0
    num_images_filtered: int = 0
    num_boxes: int = 0
    num_difficult: int = 0
    num_truncated: int = 0
    num_ignored_small: int = 0
    num_clipped: int = 0
    num_degenerate: int = 0
    degenerate: list[tuple[str, str, list[int]]] = field(default_factory=list)
    num_outside: int = 0
    outside: list[tuple[str, str, list[int]]] = field(default_factory=list)
    unknown_classes: dict[str, int] = field(default_factory=dict)
    boxes_per_class: dict[str, int] = field(default_factory=dict)

    def changes(self) -> list[str]:
        """What differs from the files, one line each; empty for clean data."""
        lines = []
        if self.num_skipped:
            shown = [f"{file}: {reason}" for file, reason in self.skipped]
            lines.append(
                f"images that cannot be used, left out: {self.num_skipped} of "
                f"{self.num_skipped + self.num_images} ({examples(shown, '; ')})"
            )
        if self.unknown_classes:
            lines.append(
                f"objects of classes that are not configured, left out: {counts_text(self.unknown_classes)}"
            )
        absent = [name for name, count in self.boxes_per_class.items() if count == 0]
        if absent:
            lines.append(
                f"no boxes of {len(absent)} of the {len(self.boxes_per_class)} configured classes: {absent}"
            )
        if self.num_degenerate:
            lines.append(
                f"degenerate boxes (xmax <= xmin or ymax <= ymin), left out: {self.num_degenerate} "
                f"({examples([path for path, _, _ in self.degenerate])})"
            )
        if self.num_outside:
            lines.append(
                f"boxes wholly outside their image, left out: {self.num_outside} "
                f"({examples([path for path, _, _ in self.outside])})"
            )
        if self.num_clipped:
            lines.append(f"boxes partly outside their image, cut off at its border: {self.num_clipped}")
        return lines


def examples(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many there are."""
    shown = separator.join(names[:_NUM_EXAMPLES])
    return shown if len(names) <= _NUM_EXAMPLES else f"{shown}{separator}... ({len(names)} in all)"


def counts_text(counts: dict[str, int]) -> str:
    """``'cat' (2), 'dog' (1)``, sorted by name."""
    return ", ".join(f"{name!r} ({count})" for name, count in sorted(counts.items()))
