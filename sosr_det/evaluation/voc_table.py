"""A table of VOC average precision for people: percent with two decimals."""

from __future__ import annotations

import io
import math

from rich import box
from rich.console import Console
from rich.table import Table

from sosr_det.evaluation.voc_ap import VOCResult


def format_table(result: VOCResult) -> str:
    """Per-class table as plain text; AP in percent with two decimals, ``-`` where there is no AP."""
    match = f"IoU {result.iou_comparison} {result.iou_threshold:g}"
    table = Table(box=box.ASCII2, title=f"VOC average precision, {match}, percent")
    table.add_column("class", no_wrap=True)
    for heading in ("ground truth", "difficult", "detections", "AP 11-point", "AP area"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = result.per_class.items()
    for name, ap in rows:
        table.add_row(
            name,
            str(ap.num_ground_truth),
            str(ap.num_difficult),
            str(ap.num_detections),
            _percent(ap.ap_11point),
            _percent(ap.ap_area),
        )
    table.add_section()
    num_averaged = len(rows) - len(result.classes_without_ground_truth)
    table.add_row(
        "mean" if num_averaged == len(rows) else f"mean of {num_averaged}",
        str(sum(ap.num_ground_truth for _, ap in rows)),
        str(sum(ap.num_difficult for _, ap in rows)),
        str(sum(ap.num_detections for _, ap in rows)),
        _percent(result.map_11point),
        _percent(result.map_area),
    )
    text = io.StringIO()
    # Wide enough for any class name, without colour or markup: a log file is no terminal.
    width = 90 + max(len(name) for name in result.per_class)
    Console(file=text, width=width, force_terminal=False, color_system=None, markup=False).print(table)
    return text.getvalue().rstrip("\n")


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
