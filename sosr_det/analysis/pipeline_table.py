"""The table of the whole pipeline, one row per backbone, from run records only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import CheckpointError

_COLUMNS = (
    ("backbone", "backbone"),
    ("top1", "top-1 %"),
    ("ece", "ECE"),
    ("cub_top1", "CUB top-1 %"),
    ("map_11point", "VOC2007 mAP 11-point"),
    ("map_area", "area"),
)


def collect_rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """One row per published backbone, and one per other start (torchvision, random), from all runs below ``paths``.

    A fine-tuning or detection run belongs to the row of the backbone it started from, joined by digest. Values are
    those of each run's best epoch, as the paper reports them. Several runs in one cell keep the latest finished.

    Raises:
        CheckpointError: no run record anywhere below the paths.
    """
    records = [read_run_record(file) for path in paths for file in _record_files(Path(path))]
    if not records:
        raise CheckpointError(f"no {FILE_NAME} below {', '.join(map(str, paths))}: nothing to report.")
    records.sort(key=lambda record: record.get("finished") or "")
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["stage"] == "pretrain":
            published = record.get("published") or {}
            key = published.get("digest") or record["config_name"]
            row = rows.setdefault(key, {"backbone": published.get("uri") or record["config_name"]})
            row.update(_values(record, {"accuracy/top1": "top1", "accuracy/ece": "ece"}))
    for record in records:
        if record["stage"] == "pretrain":
            continue
        start = record.get("backbone") or {"uri": "random"}
        row = rows.setdefault(start.get("digest") or start["uri"], {"backbone": start["uri"]})
        wanted = (
            {"accuracy/top1": "cub_top1"}
            if record["stage"] == "finetune"
            else {"voc/map_11point": "map_11point", "voc/map_area": "map_area"}
        )
        row.update(_values(record, wanted))
    return list(rows.values())


def render_rows(rows: list[dict[str, Any]]) -> str:
    """The rows as an aligned text table; mAP in percent with two decimals, a dash where there is no run."""
    cells = [[title for _, title in _COLUMNS]]
    for row in rows:
        cells.append([_format(key, row.get(key)) for key, _ in _COLUMNS])
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells
    ]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [path / FILE_NAME] if (path / FILE_NAME).is_file() else sorted(path.rglob(FILE_NAME))


def _values(record: dict[str, Any], wanted: dict[str, str]) -> dict[str, float]:
    best = (record.get("best") or {}).get("val") or {}
    return {column: best[metric] for metric, column in wanted.items() if best.get(metric) is not None}


def _format(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.startswith("map_"):
        return f"{100 * value:.2f}"
    if key == "ece":
        return f"{value:.4f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
