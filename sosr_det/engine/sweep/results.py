"""What a sweep found: read from the run records, written as JSON and CSV, shown as a table."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.studies.records import completed_record, replace_text
from sosr_det.engine.sweep.grid import Point
from sosr_det.errors import ConfigError

SCHEMA_VERSION = 1
JSON_NAME, CSV_NAME = "sweep.json", "sweep.csv"

# Ends of metric names of which less is better.
_LESS_IS_BETTER = ("ece", "nll", "loss", "error")


def direction_of(metric: str) -> str:
    """``minimize`` for errors and losses (ECE, NLL, …), ``maximize`` for all else."""
    return "minimize" if metric.rpartition("/")[2].lower() in _LESS_IS_BETTER else "maximize"


def metric_value(record: dict, metric: str) -> float:
    """The metric at the run's best epoch, the one whose weights are kept and which the paper reports.

    Raises:
        ConfigError: the run has no such metric; the message lists what it has.
    """
    best = (record.get("best") or {}).get("val") or {}
    if best.get(metric) is None:
        known = ", ".join(sorted(best)) or "none: it did not validate"
        raise ConfigError(f"--metric {metric}: the runs have no such metric. They have: {known}.")
    return float(best[metric])


def collect(
    folder: Path, points: Sequence[Point], metric: str, attempts: dict[str, list[dict]]
) -> list[dict]:
    """One entry per point: parameters, value, epoch, seconds, error and status.

    The status is ``completed``, ``failed``, ``interrupted``, or ``missing`` for what has not ended yet.

    Raises:
        ConfigError: see :func:`metric_value`.
    """
    rows = []
    for point in points:
        row: dict[str, Any] = {"trial": point.name, "parameters": point.parameters, "status": "missing"}
        record = completed_record(folder / point.name)
        if record:
            row.update(
                status="completed",
                value=metric_value(record, metric),
                epoch=record["best"]["epoch"],
                wall_seconds=record.get("wall_seconds"),
                data=[(record["data"].get(part) or {}).get("fingerprint") for part in ("train", "val")],
            )
        elif attempts.get(point.name) and not attempts[point.name][-1]["completed"]:
            last = attempts[point.name][-1]
            row.update(status="interrupted" if last.get("interrupted") else "failed", error=last.get("error"))
        rows.append(row)
    return rows


def summarise(rows: Sequence[dict]) -> list[dict]:
    """Mean and sample standard deviation over the seeds of every combination, in the order of the grid."""
    groups: dict[str, dict] = {}
    for row in rows:
        settings = {key: value for key, value in row["parameters"].items() if key != "seed"}
        group = groups.setdefault(
            json.dumps(settings, sort_keys=True), {"parameters": settings, "values": {}, "failed_seeds": []}
        )
        if row["status"] == "completed":
            group["values"][str(row["parameters"]["seed"])] = row["value"]
        elif row["status"] == "failed":
            group["failed_seeds"].append(row["parameters"]["seed"])
    for group in groups.values():
        values = list(group["values"].values())
        group["n"] = len(values)
        group["mean"] = statistics.fmean(values) if values else None
        group["std"] = statistics.stdev(values) if len(values) > 1 else None
    return list(groups.values())


def read_sweep(folder: Path) -> dict | None:
    """``sweep.json`` of a sweep's folder, or None where there is none.

    Raises:
        ConfigError: the file is not a sweep's, or of another version.
    """
    path = folder / JSON_NAME
    if not path.is_file():
        return None
    try:
        sweep = json.loads(path.read_text())
        version, _ = sweep["schema_version"], sweep["spec"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a sweep's file ({error}); use another --work-dir.") from error
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema version {version}, this sosr-det reads {SCHEMA_VERSION}; use another --work-dir."
        )
    return sweep


def write_sweep(folder: Path, spec: dict, metric: str, rows: Sequence[dict]) -> None:
    """Replace ``sweep.json`` (all there is to know) and ``sweep.csv`` (a line per run)."""
    replace_text(
        folder / JSON_NAME,
        json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "spec": spec,
                "metric": metric,
                "direction": direction_of(metric),
                "runs": list(rows),
                "summary": summarise(rows),
            },
            indent=1,
        ),
    )
    keys = list(rows[0]["parameters"]) if rows else []
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", *keys, "status", metric, "best_epoch", "wall_seconds", "error"])
    for row in rows:
        writer.writerow(
            [
                row["trial"],
                *(row["parameters"][key] for key in keys),
                row["status"],
                *(row.get(field, "") for field in ("value", "epoch", "wall_seconds", "error")),
            ]
        )
    replace_text(folder / CSV_NAME, text.getvalue())


def render(rows: Sequence[dict], metric: str) -> str:
    """The combinations with mean ± standard deviation over seeds, in the order of the grid, the best one marked."""
    summary = summarise(rows)
    better = min if direction_of(metric) == "minimize" else max
    best = better((g["mean"] for g in summary if g["n"]), default=None)
    keys = list(summary[0]["parameters"]) if summary else []
    lines = [[*keys, metric, "n", "", ""]]
    for group in summary:
        notes = f"failed: seed {', '.join(map(str, group['failed_seeds']))}" if group["failed_seeds"] else ""
        lines.append(
            [
                *(str(group["parameters"][key]) for key in keys),
                _mean_and_spread(group, 2 if "/top" in metric else 4),
                str(group["n"]),
                "best" if group["n"] and group["mean"] == best else "",
                notes,
            ]
        )
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.append("mean ± sample standard deviation over n seeds, at each run's best epoch")
    text.append("epochs and the best combination are chosen on these data, so their numbers are optimistic")
    if len({json.dumps(row["data"]) for row in rows if "data" in row}) > 1:
        text.append(
            "WARNING: these runs did not see the same data (their fingerprints differ), so do not compare them"
        )
    return "\n".join(text)


def _mean_and_spread(group: dict, digits: int) -> str:
    if not group["n"]:
        return "–"
    spread = "" if group["std"] is None else f" ± {group['std']:.{digits}f}"
    return f"{group['mean']:.{digits}f}{spread}"
