"""Tables 1-8 of the paper as text, each number beside the config that stands for it."""

from __future__ import annotations

from sosr_det.engine.paper.detection import CAPTION, DETECTION_CELLS, NUMBER
from sosr_det.engine.paper.rows import TABLES, cells
from sosr_det.engine.paper.text import config_name


def table_numbers() -> list[int]:
    """The numbers of the paper's tables, in order."""
    return [*TABLES, NUMBER]


def table_text(number: int, pattern: str = "") -> str:
    """One table: its caption, and a line per number with row, column, the number as printed, and the config's name.

    Args:
        number: of the table, 1 to 8.
        pattern: show only lines whose config's name contains this text; without any the result is empty.
    """
    lines = [
        (cell.row, "mAP", cell.map_percent, cell.config)
        for cell in DETECTION_CELLS
        if number == NUMBER and pattern in cell.config
    ]
    for cell in cells():
        name = config_name(cell.experiment)
        if cell.table == number and pattern in name:
            score = cell.top1 if cell.top5 is None else f"{cell.top1}, top-5 {cell.top5}"
            lines.append((cell.row, cell.column, score, name))
    if not lines:
        return ""
    widths = [max(len(line[place]) for line in lines) for place in range(3)]
    body = [
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=False)) + f"  {line[3]}"
        for line in lines
    ]
    caption = CAPTION if number == NUMBER else TABLES[number].caption
    return "\n".join([f"Table {number}: {caption}", *body])
