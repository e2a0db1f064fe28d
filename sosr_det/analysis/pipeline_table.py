"""The table of the whole pipeline, one row per backbone, from run records only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import CheckpointError

_MAIN_COLUMNS = ("backbone", "top-1 %", "ECE", "CUB top-1 %", "VOC2007 mAP 11-point", "area")
_VOC_NUM_CLASSES = 20


def collect_rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """One row per published backbone, and one per other start (torchvision, random), from all runs below ``paths``.

    A fine-tuning or detection run belongs to the row of the backbone it started from, joined by digest. Values are
    those of each run's best epoch, as the paper reports them; of a detector whose epoch was not chosen on the test set,
    the latest test of its kept checkpoint with the config's own settings, and the score that it was chosen by under
    "val mAP"; "epoch chosen on" says which. Several runs in one cell keep the latest finished. Runs on other data than
    CUB-200-2011 or the 20 VOC classes get columns that name that data. Runs that did not complete are left out.

    Returns:
        Dicts with ``backbone`` and one entry per known column title; top-1 and mAP in percent, ECE as a fraction.

    Raises:
        CheckpointError: no completed run anywhere below the paths.
    """
    records = completed_records(paths)
    # Pretraining first: it names the rows.
    records.sort(key=lambda item: (item[1]["stage"] != "pretrain", item[1].get("finished") or ""))
    rows: dict[str, dict[str, Any]] = {}
    for file, record in records:
        if record["stage"] == "pretrain":
            published = record.get("published") or {}
            key, name = published.get("digest") or str(file), published.get("uri") or str(file.parent)
        else:
            start = record.get("backbone") or {"uri": "random"}
            key, name = start.get("digest") or start["uri"], start["uri"]
        rows.setdefault(key, {"backbone": name}).update(_values(record))
    return list(rows.values())


def completed_records(paths: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """The record of every completed run below ``paths``, with its file.

    Raises:
        CheckpointError: there is none.
    """
    paths = list(paths)
    records = [(file, read_run_record(file)) for path in paths for file in _record_files(Path(path))]
    records = [(file, record) for file, record in records if record["status"] == "completed"]
    if not records:
        raise CheckpointError(
            f"no completed run ({FILE_NAME}) below {', '.join(map(str, paths))}: nothing to report."
        )
    return records


def render_rows(rows: list[dict[str, Any]]) -> str:
    """The rows as an aligned text table; a dash where there is no run."""
    extra = sorted({title for row in rows for title in row} - set(_MAIN_COLUMNS))
    titles = [*_MAIN_COLUMNS, *extra]
    cells = [titles, *([_format(title, row.get(title)) for title in titles] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells
    ]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [path / FILE_NAME] if (path / FILE_NAME).is_file() else sorted(path.rglob(FILE_NAME))


def _values(record: dict[str, Any]) -> dict[str, Any]:
    """Column title -> value of the run's best epoch, or of its test."""
    best = (record.get("best") or {}).get("val") or {}
    data = (record.get("data") or {}).get("val") or {}
    if record["stage"] == "detection":
        return _detection_values(record)
    if record["stage"] == "finetune":
        is_cub = data.get("type") == "CUB200"
        wanted = {"accuracy/top1": "CUB top-1 %" if is_cub else f"top-1 % ({record['config_name']})"}
    else:
        wanted = {"accuracy/top1": "top-1 %", "accuracy/ece": "ECE"}
    return {title: best[metric] for metric, title in wanted.items() if best.get(metric) is not None}


def _detection_values(record: dict[str, Any]) -> dict[str, Any]:
    """mAP in percent. A number that an epoch was chosen by is marked as such, and never stands as a test's."""
    data = record.get("data") or {}
    num_classes = len(((data.get("val") or data.get("train") or {}).get("classes")) or [])
    if num_classes == _VOC_NUM_CLASSES:
        wanted, name = {"voc/map_11point": "VOC2007 mAP 11-point", "voc/map_area": "area"}, ""
    else:
        name = f" ({num_classes} classes: {record['config_name']})"
        wanted = {"voc/map_11point": f"mAP 11-point{name}"}
    best = (record.get("best") or {}).get("val") or {}
    selection = record.get("selection")
    if (
        selection is None or selection["on"] == "test"
    ):  # records without one are of runs that validated on test
        scores, chosen_by = best, {}
    else:
        scores, chosen_by = _plain_test(record), best
    values = {title: 100 * scores[key] for key, title in wanted.items() if scores.get(key) is not None}
    if selection is not None:
        values[f"epoch chosen on{name}"] = selection["on"]
    if chosen_by.get("voc/map_11point") is not None and selection["on"] == "val":
        values[f"val mAP 11-point{name}"] = 100 * chosen_by["voc/map_11point"]
    return values


def _plain_test(record: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the latest test of the kept checkpoint with the settings of its run; empty where there was none."""
    kept = (record.get("best") or {}).get("checkpoint")
    for test in reversed(record.get("tests") or []):
        if _tests_the_run_as_it_is(test) and kept in (None, test["checkpoint"]):
            return test["metrics"]
    return {}


def _tests_the_run_as_it_is(test: dict[str, Any]) -> bool:
    """Whether a test had the run's own settings; its overrides may be what made them so."""
    # Only what the drift looks at can be known to be the run's own.
    compared = "config_drift" in test
    own = all(compared and (key.startswith("model.") or ".pipeline." in key) for key in test["cfg_options"])
    return not test["changed_settings"] and not test.get("config_drift") and own


def _format(title: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if title == "ECE" else f"{value:.2f}"
