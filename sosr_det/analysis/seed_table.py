"""Several runs of one config as n, mean and spread, beside the paper's number where the config is one of its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sosr_det.analysis.pipeline_table import completed_records
from sosr_det.engine.paper import cells, config_name
from sosr_det.errors import ConfigError

# Metric -> column title, number of decimals.
_METRICS = {
    "accuracy/top1": ("top-1 %", 2),
    "accuracy/top5": ("top-5 %", 2),
    "accuracy/ece": ("ECE", 4),
    "accuracy/nll": ("NLL", 4),
    "voc/map_11point": ("mAP 11-point", 4),
    "voc/map_area": ("mAP area", 4),
}


def collect_seeds(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """One row per config and length of training, over all completed runs below ``paths``.

    The values are those of each run's best epoch, chosen by its first metric as in the paper ("the highest Top-1
    classification accuracy over the full training process"), and of its last epoch, which no choice has made better.

    Returns:
        Dicts with ``config``, ``epochs``, ``n``, ``seeds``, ``best`` and ``last`` (metric -> mean, std (of n - 1; None
        for one run), values in the order of the seeds), and ``paper`` (the paper's cells of that config, as printed).

    Raises:
        CheckpointError: no completed run below the paths.
        ConfigError: two runs of one config, length and seed: they are not independent.
    """
    groups: dict[tuple[str, int], list[tuple[Path, dict]]] = {}
    for file, record in completed_records(paths):
        epochs = [epoch for epoch in record["epochs"] if epoch.get("val")]
        if epochs:
            groups.setdefault((record["config_name"], epochs[-1]["epoch"]), []).append((file, record))
    rows = []
    for (name, length), runs in sorted(groups.items()):
        runs.sort(key=lambda run: run[1]["seed"])
        seeds = [record["seed"] for _, record in runs]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            files = ", ".join(str(file.parent) for file, record in runs if record["seed"] == twice)
            raise ConfigError(
                f"{name}: seed {twice} was run more than once ({files}); a repeated seed is not another sample. "
                "Report one of them."
            )
        rows.append(
            {
                "config": name,
                "epochs": length,
                "n": len(runs),
                "seeds": seeds,
                "best": _spread([(record.get("best") or {}).get("val") or {} for _, record in runs]),
                "last": _spread([_last(record) for _, record in runs]),
                "paper": _paper_cells(name),
            }
        )
    return rows


def render_seeds(rows: list[dict[str, Any]]) -> str:
    """The rows as text: mean ± standard deviation of the best epoch, the last epoch below it, n beside the name."""
    lines = []
    for row in rows:
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append(f"{row['config']}: {row['epochs']} epochs, n = {row['n']} (seeds {seeds})")
        for which in ("best", "last"):
            values = "; ".join(_text(metric, value) for metric, value in row[which].items())
            lines.append(f"  {which} epoch  {values or 'nothing evaluated'}")
        lines += [f"  paper       {cell}" for cell in row["paper"]]
    return "\n".join(lines)


def _last(record: dict[str, Any]) -> dict[str, Any]:
    return next(epoch["val"] for epoch in reversed(record["epochs"]) if epoch.get("val"))


def _spread(evaluations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    spread = {}
    for metric in _METRICS:
        values = [evaluation[metric] for evaluation in evaluations if evaluation.get(metric) is not None]
        if len(values) == len(evaluations):
            spread[metric] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
    return spread


def _text(metric: str, value: dict[str, Any]) -> str:
    title, decimals = _METRICS[metric]
    spread = "" if value["std"] is None else f" ± {value['std']:.{decimals}f}"
    return f"{title} {value['mean']:.{decimals}f}{spread}"


def _paper_cells(name: str) -> list[str]:
    found = []
    for cell in cells():
        if config_name(cell.experiment).rpartition("/")[2] == name:
            score = cell.top1 if cell.top5 is None else f"{cell.top1}, top-5 {cell.top5}"
            found.append(
                " ".join(filter(None, [f"Table {cell.table}, {cell.row}", cell.column])) + f": {score}"
            )
    return found
