"""What a reader of a comparison must know beside its numbers."""

from __future__ import annotations

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
