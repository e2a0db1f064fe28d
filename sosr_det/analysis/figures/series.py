"""Mean and spread over runs, epoch by epoch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from sosr_det.analysis.figures.runs import Group, value_at

# The paper's captions: "Shaded areas represent three times of standard deviation".
SHADED_STANDARD_DEVIATIONS = 3


def series(group: Group, pick: Callable[[dict[str, Any]], float | None]) -> dict[str, list]:
    """``epoch``, ``mean``, ``std`` and ``num_runs`` of one quantity, lists of equal length.

    Args:
        group: the runs; epochs that only some of them recorded are kept, with fewer runs.
        pick: the quantity of one epoch's entry, None where it is undefined (a mean over no samples); such a run does
            not count at that epoch, and an epoch without any value is left out.

    ``std`` is the sample standard deviation (n - 1), None for a single run.
    """
    rows: dict[str, list] = {"epoch": [], "mean": [], "std": [], "num_runs": []}
    for epoch in sorted({entry["epoch"] for run in group.runs for entry in run.record["epochs"]}):
        values = [v for run in group.runs if (v := value_at(run, epoch, pick)) is not None]
        if values:
            rows["epoch"].append(epoch)
            rows["mean"].append(statistics.fmean(values))
            rows["std"].append(statistics.stdev(values) if len(values) > 1 else None)
            rows["num_runs"].append(len(values))
    return rows


def draw_series(axes: Any, rows: dict[str, list], **style: Any) -> None:
    """The means as a line, and three standard deviations to either side as a shaded area."""
    single_point = len(rows["epoch"]) == 1
    (line,) = axes.plot(rows["epoch"], rows["mean"], marker="o" if single_point else None, **style)
    spread = [SHADED_STANDARD_DEVIATIONS * (std or 0) for std in rows["std"]]
    if any(spread):
        low = [mean - s for mean, s in zip(rows["mean"], spread, strict=True)]
        high = [mean + s for mean, s in zip(rows["mean"], spread, strict=True)]
        axes.fill_between(rows["epoch"], low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def fit_limits(
    axes: Any, drawn: list[dict[str, list]], lowest: float | None = None, highest: float | None = None
) -> None:
    """Limits that show every mean and nearly all shaded areas.

    Early epochs with few samples have areas many times as wide as anything else: the widest tenth may run out of the
    picture (its numbers are in the data file). ``lowest`` and ``highest`` are what the quantity can reach.
    """
    import numpy as np

    means = [mean for rows in drawn for mean in rows["mean"]]
    if not means:
        return
    spread = [SHADED_STANDARD_DEVIATIONS * (std or 0) for rows in drawn for std in rows["std"]]
    low, high = np.percentile(np.subtract(means, spread), 5), np.percentile(np.add(means, spread), 95)
    low, high = min(low, *means), max(high, *means)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    axes.set_ylim(
        low if lowest is None else max(low, lowest), high if highest is None else min(high, highest)
    )
