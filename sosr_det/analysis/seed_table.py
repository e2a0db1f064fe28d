"""Several runs of one experiment as n, mean and spread, beside the paper's number where nothing was changed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.analysis.pipeline_table import completed_records
from sosr_det.analysis.run_settings import UNSET, changes_from_shipped, differences, run_settings
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
    """One row per experiment, over all completed runs below ``paths``: runs that differ in nothing but their seed.

    The values are those of each run's best epoch, chosen by its first metric as in the paper ("the highest Top-1
    classification accuracy over the full training process"), and of its last epoch, which no choice has made better.

    Returns:
        Dicts with ``config``, ``epochs``, ``n``, ``seeds``, ``best`` and ``last`` (metric -> mean, std (of n - 1; None
        for one run), values in the order of the seeds); ``settings`` (config key -> value, of the keys in which the
        rows of one config differ); ``changed`` (what was changed of the shipped config, see
        :func:`sosr_det.analysis.run_settings.changes_from_shipped`); and ``paper`` (the paper's cells of that config,
        as printed; none where a setting was changed).

    Raises:
        CheckpointError: no completed run below the paths, or one whose settings cannot be read.
        ConfigError: two runs of one experiment and seed: they are not independent.
    """
    by_config: dict[str, list[_Group]] = {}
    for file, record in completed_records(paths):
        epochs = [epoch for epoch in record["epochs"] if epoch.get("val")]
        if not epochs:
            continue
        length, settings = epochs[-1]["epoch"], run_settings(record, file)
        groups = by_config.setdefault(record["config_name"], [])
        group = next((g for g in groups if (g.length, g.settings) == (length, settings)), None)
        if group is None:
            groups.append(group := _Group(length, settings, []))
        group.runs.append((file, record))
    return [
        _row(name, group, differences([other.settings for other in groups]))
        for name, groups in sorted(by_config.items())
        for group in sorted(groups, key=lambda group: (group.length, sorted(group.settings.items())))
    ]


@dataclass
class _Group:
    """Completed runs of one experiment; ``length`` in epochs."""

    length: int
    settings: dict[str, str]
    runs: list[tuple[Path, dict[str, Any]]]


def _row(name: str, group: _Group, telling_keys: list[str]) -> dict[str, Any]:
    runs = sorted(group.runs, key=lambda run: run[1]["seed"])
    seeds = [record["seed"] for _, record in runs]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        files = ", ".join(str(file.parent) for file, record in runs if record["seed"] == twice)
        raise ConfigError(
            f"{name}: seed {twice} was run more than once ({files}); a repeated seed is not another sample. "
            "Report one of them."
        )
    changed = changes_from_shipped(runs[0][1], runs[0][0])
    return {
        "config": name,
        "settings": {key: group.settings.get(key, UNSET) for key in telling_keys},
        "epochs": group.length,
        "n": len(runs),
        "seeds": seeds,
        "best": _spread([(record.get("best") or {}).get("val") or {} for _, record in runs]),
        "last": _spread([_last(record) for _, record in runs]),
        "changed": changed,
        "paper": _paper_cells(name) if changed == {} else [],
    }


def render_seeds(rows: list[dict[str, Any]]) -> str:
    """The rows as text: mean ± standard deviation of the best epoch, the last epoch below it, n beside the name."""
    lines = []
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        title = f"{row['config']} [{settings}]" if settings else row["config"]
        lines.append(
            f"{title}: {row['epochs']} epochs, n = {row['n']} (seeds {', '.join(map(str, row['seeds']))})"
        )
        for which in ("best", "last"):
            values = "; ".join(_text(metric, value) for metric, value in row[which].items())
            lines.append(f"  {which} epoch  {values or 'nothing evaluated'}")
        if row["changed"]:
            changes = ", ".join(
                f"{key}={change['run']} (shipped: {change['shipped']})"
                for key, change in row["changed"].items()
            )
            lines.append(f"  changed     {changes}")
            if _paper_cells(row["config"]):
                lines.append("  paper       not shown beside changed settings")
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
