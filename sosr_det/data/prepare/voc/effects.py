"""What a detector's training, :class:`~sosr_det.data.voc.CheckedVOCDataset`, does about each kind of problem."""

from __future__ import annotations

from collections.abc import Iterable

_LEFT_OUT = "training stops; on_problem='skip' leaves the image out, but helps with no list or folder"
EFFECTS = {
    "missing": _LEFT_OUT,
    "malformed": _LEFT_OUT,
    "repeated": "training stops",
    "class": "training stops; on_problem='skip' leaves the image out, unknown_classes='ignore' the object",
    "empty": "training stops when it comes to the image, whatever on_problem says",
    "undecodable": "training stops when it comes to the image, whatever on_problem says",
    "foreign": "read all the same, most likely as an image without objects",
    "size": "boxes are cut off at the border of the size in the XML, not at the image's",
    "degenerate": "the box is left out, and counted in the log (the loss would be infinite)",
    "outside": "the box is left out, and counted in the log",
    "clipped": "the box is cut off at the image's border, and counted in the log",
    "flag": "any other whole number than 0 counts as 1",
    "overlap": "nothing notices: what was learned from is tested on",
    "leak": "nothing notices: what was learned from is tested on",
    "lists": "nothing notices: each list is used as it is",
    "spelling": "each spelling is a class of its own",
    "count": "nothing notices: results are not comparable with published ones",
}
"""By the kind of problem. Kinds of :class:`~sosr_det.data.prepare.inspection.Problem` that detection data has."""


def effects_of(kinds: Iterable[str]) -> dict[str, str]:
    """What happens in training, for the kinds of problems that are there."""
    there = set(kinds)
    return {kind: text for kind, text in EFFECTS.items() if kind in there}
