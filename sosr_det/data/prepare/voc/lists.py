"""The image lists in ``ImageSets/Main``: reading them, and whether they agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sosr_det.data.prepare.inspection import Inspection

# (one, other): no image may be in both, or what is measured on the one was learned from the other.
_DISJOINT = (("train", "val"), ("train", "test"), ("val", "test"), ("trainval", "test"))
_SHOWN = 3


def read_list(found: Inspection, path: Path) -> list[str]:
    """Return the image ids of a list as training reads them: each line without the space around it, no line twice.

    Problems go to ``found``: a list that is missing, empty or no UTF-8 text, and ids that are repeated.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        found.problem("missing", path, "list not found")
        return []
    except (OSError, UnicodeDecodeError) as error:
        found.problem("malformed", path, f"cannot be read as UTF-8 text: {error}")
        return []
    if text.startswith("\ufeff"):
        found.problem(
            "malformed", path, "starts with a byte-order mark, which would be part of its first image id"
        )
        text = text[1:]
    counts = Counter(line.strip() for line in text.splitlines() if line.strip())
    if not counts:
        found.problem("malformed", path, "holds no image ids; expected one a line")
    if repeated := [identity for identity, count in counts.items() if count > 1]:
        found.problem("repeated", path, f"lists {_some(repeated)} more than once")
    return list(counts)


def is_class_list(path: Path) -> bool:
    """Whether this is one of VOC's lists of a class: image ids with -1, 0 or 1 behind them."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return False
    return bool(lines) and all(len(line) == 2 and line[1] in ("-1", "0", "1") for line in lines)


def compare_lists(found: Inspection, folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Report images in two lists that must be disjoint, and a ``trainval`` that is not ``train`` and ``val``.

    Args:
        found: gets the problems.
        folder: the folder with the lists.
        lists: image ids by the list's name; only VOC's own four names are compared.
    """
    for one, other in _DISJOINT:
        if both := set(lists.get(one, ())) & set(lists.get(other, ())):
            # Each image by itself, so that it can be looked for.
            for identity in sorted(both):
                found.problem(
                    "overlap", folder / f"{other}.txt", f"lists {identity}, which {one}.txt lists as well"
                )
    if not all(lists.get(name) for name in ("train", "val", "trainval")):
        return
    parts, whole = {*lists["train"], *lists["val"]}, set(lists["trainval"])
    for ids, text in (
        (parts - whole, "lacks {} of train.txt and val.txt"),
        (whole - parts, "lists {} that are neither in train.txt nor in val.txt"),
    ):
        if ids:
            found.problem(
                "lists", folder / "trainval.txt", text.format(f"{len(ids):,} images ({_some(sorted(ids))})")
            )


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN:,} more"
