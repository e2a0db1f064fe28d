"""The rows of ``sosr-det registry ls``: one per name and content, filtered and sorted. Plain data, no printing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sosr_det.errors import ConfigError, CorruptEntryError
from sosr_det.registry.entry import Listing
from sosr_det.registry.lineage import Lineage

# What --min and --max take, in the units that the table shows: percent, and ECE as a fraction.
LIMITS = ("top1", "ece", "map")
# --sort takes these; the second part says which end comes first.
SORTS: dict[str, tuple[str, bool]] = {
    "name": ("name", False),
    "top1": ("top1", True),
    "ece": ("ece", False),
    "map": ("map", True),
    "size": ("size_bytes", True),
    "created": ("created", True),
}
_KEEP_ALL = "all"


@dataclass(frozen=True)
class Wanted:
    """Which rows to keep. Patterns are globs; ``arch``, ``data`` and ``recipe`` also take a part of the word."""

    name: str | None = None
    arch: str | None = None
    data: str | None = None
    recipe: str | None = None
    kind: str = _KEEP_ALL
    least: Sequence[str] = ()
    most: Sequence[str] = ()


def all_rows(listings: Iterable[Listing]) -> list[dict[str, Any]]:
    """One row per name and manifest, with all its tags; damaged refs have an error and no values.

    ``map`` is the VOC 11-point mAP in percent: a detector's own, a backbone's the best of the ``num_detectors`` that
    stand on it (``detectors``), directly or on something fine-tuned from it.
    """
    listings = list(listings)
    lineage = Lineage(listings)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for listing in listings:
        key = (listing.name, listing.digest or f"@{listing.tag}")
        if key in rows:
            rows[key]["tags"].append(listing.tag)
        else:
            rows[key] = _row(listing, lineage)
    return list(rows.values())


def select(rows: Iterable[dict[str, Any]], wanted: Wanted) -> list[dict[str, Any]]:
    """The rows that fit. A damaged one is kept where its name fits, so that no filter hides damage.

    Raises:
        ConfigError: a limit that is not METRIC=NUMBER with a metric of LIMITS.
    """
    limits = [(*_limit(text, "--min"), 1) for text in wanted.least]
    limits += [(*_limit(text, "--max"), -1) for text in wanted.most]

    def fits(row: dict[str, Any]) -> bool:
        if wanted.name is not None and not fnmatchcase(row["name"], wanted.name):
            return False
        if row["error"] is not None:
            return True
        if wanted.kind not in (_KEEP_ALL, row["kind"]):
            return False
        for key in ("arch", "data", "recipe"):
            pattern = getattr(wanted, key)
            if pattern is not None and not _matches(row[key] or "", pattern):
                return False
        return all(row[key] is not None and sign * row[key] >= sign * value for key, value, sign in limits)

    return [row for row in rows if fits(row)]


def sort_rows(rows: Iterable[dict[str, Any]], order: str, reverse: bool) -> list[dict[str, Any]]:
    """Best, largest or newest first, names from A to Z; ``reverse`` turns that round. Rows without a value come last.

    Raises:
        ConfigError: an unknown order.
    """
    if order not in SORTS:
        raise ConfigError(f"--sort {order!r} is not known; choose one of {', '.join(SORTS)}.")
    key, descending = SORTS[order]
    rows = list(rows)
    known = sorted((row for row in rows if row[key] is not None), key=_by(key), reverse=descending != reverse)
    return known + [row for row in rows if row[key] is None]


def _by(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row[key]


def _row(listing: Listing, lineage: Lineage) -> dict[str, Any]:
    row: dict[str, Any] = {"name": listing.name, "tags": [listing.tag], "digest": listing.digest}
    row["error"] = None if listing.error is None else str(listing.error)
    # Only what was read and found wrong is damage; what could not be read may be fine.
    row["damaged"] = isinstance(listing.error, CorruptEntryError)
    summary = listing.summary
    for key in ("kind", "arch", "data", "recipe", "size_bytes", "tensors_digest", "license", "created"):
        row[key] = getattr(summary, key) if summary else None
    for key in ("top1", "ece"):
        row[key] = summary.metrics.get(key) if summary else None
    below = lineage.detectors_below(listing.digest) if listing.digest and summary else []
    row["detectors"] = [
        {"uri": f"sosr://{node.label}", "digest": node.digest, "map": _voc_map(node.summary.metrics)}
        for node in below
    ]
    row["num_detectors"] = len(below)
    own = [_voc_map(summary.metrics)] if summary and summary.kind == "detector" else []
    values = own or [detector["map"] for detector in row["detectors"]]
    row["map"] = max((value for value in values if value is not None), default=None)
    return row


def _voc_map(metrics: dict[str, float]) -> float | None:
    return 100 * metrics["map_11point"] if "map_11point" in metrics else None


def _matches(word: str, pattern: str) -> bool:
    word, pattern = word.lower(), pattern.lower()
    return fnmatchcase(word, pattern) if any(char in pattern for char in "*?[") else pattern in word


def _limit(text: str, option: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals and name in LIMITS:
            return name, float(value)
    except ValueError:
        pass
    raise ConfigError(
        f"{option} {text!r} is not METRIC=NUMBER with one of {', '.join(LIMITS)}; for example {option} top1=70 "
        "(top1 and map in percent, ece as a fraction)."
    )
