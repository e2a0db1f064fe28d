"""Aligned columns for the terminal. Without rich: a thousand rows must not take longer to draw than to read."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence

import typer

_GAP = "  "
_NARROWEST = 8  # characters that a shortened column keeps


def terminal_width() -> int | None:
    """Characters per line of the terminal; None where the output goes elsewhere, and nothing is to be shortened."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def bold(text: str) -> str:
    """Bold on a terminal, unless ``NO_COLOR`` is set."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str] = (),
    width: int | None = None,
    shrink: Sequence[str] = (),
) -> list[str]:
    """Lines of a table, the titles first.

    ``right`` names the columns that are aligned to the right. Where a line would be longer than ``width``, the columns
    ``shrink`` are shortened, the first named first, and shortened texts end in ``…``.
    """
    columns = (
        [[title, *cells] for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]
        if rows
        else []
    )
    columns = columns or [[title] for title in titles]
    widths = [max(map(_width, column)) for column in columns]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - (width or sys.maxsize)
    for title in shrink:
        index = list(titles).index(title)
        spare = min(max(excess, 0), max(widths[index] - max(_NARROWEST, _width(title)), 0))
        if spare:
            widths[index] -= spare
            excess -= spare
            columns[index] = [_shortened(text, widths[index]) for text in columns[index]]
    last = len(columns) - 1
    padded = [
        [_padded(text, size, title in right, index == last) for text in column]
        for index, (title, column, size) in enumerate(zip(titles, columns, widths, strict=True))
    ]
    return [_GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def _padded(text: str, size: int, right: bool, is_last: bool) -> str:
    blank = " " * (size - _width(text))
    return blank + text if right else text if is_last else text + blank


def _shortened(text: str, size: int) -> str:
    if _width(text) <= size:
        return text
    while _width(text) > size - 1:
        text = text[:-1]
    return f"{text}…"
