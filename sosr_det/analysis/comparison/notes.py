"""What a reader of a comparison must know beside its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sosr_det.analysis.comparison.collect import Finished
from sosr_det.engine.compare.study import Study
from sosr_det.evaluation.bootstrap import FEWEST_SEEDS


def notes_about(study: Study, finished: Finished, result: dict[str, Any]) -> list[str]:
    """Sentences, the gravest first."""
    notes = list(result["pairing"]["warnings"])
    records = [record for row in finished.records for record in row]
    if finished.seeds and len(finished.seeds) < FEWEST_SEEDS:
        notes.append(
            f"{len(finished.seeds)} seed(s): at least {FEWEST_SEEDS} are needed for a verdict other than "
            "'not distinguishable'"
        )
    for part in ("train", "val"):
        prints = {((record.get("data") or {}).get(part) or {}).get("fingerprint") for record in records}
        if len(prints) > 1:
            notes.append(f"the runs did not have the same {part} data: their fingerprints differ")
    notes += _differing_circumstances(study, finished)
    chosen_on = {(record.get("selection") or {}).get("on") for record in records}
    if "test" in chosen_on:
        notes.append(
            "epochs were chosen on the test images that are reported, as the paper presumably did: every arm's score "
            "is optimistic, and the interval does not count that"
        )
    if study.grown:
        notes.append(
            "arms or seeds were added after this comparison had begun; if that depended on what was seen by then, the "
            "interval is too narrow"
        )
    arms = len(study.arms)
    if arms > 2 and finished.seeds:
        notes.append(
            f"{arms - 1} arms are compared with the first, each with an interval of its own: the chance that one "
            "of them is called distinguishable by accident is higher than 5 %"
        )
    return notes


def _differing_circumstances(study: Study, finished: Finished) -> list[str]:
    """One sentence for each of code, libraries, device and number of processes that is not the same in all runs."""
    runs = {
        f"{arm.name}/seed-{seed}": finished.records[i][j]
        for i, arm in enumerate(study.arms)
        for j, seed in enumerate(finished.seeds)
    }
    notes = []
    for key, what in (
        ("git_commit", "of the same code: git_commit"),
        ("device", "on the same device: device"),
        ("world_size", "with as many processes: world_size"),
    ):
        told = _told({name: record.get(key) for name, record in runs.items()})
        if told:
            notes.append(f"the runs were not made {what} {told}")
    libraries = {name: record.get("library_versions") or {} for name, record in runs.items()}
    names = sorted({library for versions in libraries.values() for library in versions})
    differing = {
        library: _told({name: versions.get(library) for name, versions in libraries.items()})
        for library in names
    }
    listed = "; ".join(f"{library} {told}" for library, told in differing.items() if told)
    if listed:
        notes.append(f"the runs were not made with the same libraries: {listed}")
    return notes


def _told(values: dict[str, Any]) -> str:
    """``is A in x/seed-0, x/seed-1 and B in y/seed-0``; empty where all are the same."""
    runs_by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        runs_by_value.setdefault("unknown" if value is None else str(value), []).append(name)
    if len(runs_by_value) < 2:
        return ""
    return "is " + " and ".join(f"{value} in {_few(names)}" for value, names in runs_by_value.items())


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
