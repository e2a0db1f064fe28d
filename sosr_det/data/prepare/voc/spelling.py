"""Class names that look like others: the commonest fault of one's own annotations."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


def same_but_for_spelling(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Find names that differ only in case, in spaces, ``-`` or ``_``, or in a plural ``s``.

    Args:
        counts: number of objects by class name.

    Returns:
        (the rarer name, the name with most objects that it looks like), sorted.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_skeleton(name), []).append(name)
    pairs = []
    for names in groups.values():
        usual = max(names, key=lambda name: (counts[name], name))
        pairs += [(name, usual) for name in names if name != usual]
    return sorted(pairs)


def suggestion(name: str, classes: Iterable[str]) -> str | None:
    """The class that an unknown name may mean, or None."""
    by_skeleton = {_skeleton(known): known for known in classes}
    if _skeleton(name) in by_skeleton:
        return by_skeleton[_skeleton(name)]
    near = difflib.get_close_matches(_skeleton(name), by_skeleton, n=1, cutoff=0.75)
    return by_skeleton[near[0]] if near else None


def _skeleton(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold()).removesuffix("s")
