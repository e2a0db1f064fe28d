"""Aligned columns for the terminal. Without rich: a thousand rows must not take longer to draw than to read."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence

import typer

_GAP = "  "
_NARROWEST = 12  # characters that a shortened column keeps


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
    drop: Sequence[str] = (),
) -> list[str]:
    """Lines of a table, the titles first.

    ``right`` names the columns that are aligned to the right. Where a line would be longer than ``width``, the columns
    ``shrink`` are shortened, the first named first, and shortened texts end in ``…``; where that is not enough, the
    columns ``drop`` are left out one after the other. What is in neither list is never cut.
    """
    columns = [[title, *(row[index] for row in rows)] for index, title in enumerate(titles)]
    for left_out in range(len(drop) + 1):
        kept = [column for column in columns if column[0] not in drop[:left_out]]
        fitted, fits = _fit(kept, width or sys.maxsize, shrink)
        if fits:
            break
    sizes = [max(map(_width, column)) for column in fitted]
    padded = [
        [_padded(text, size, column[0] in right, column is fitted[-1]) for text in column]
        for column, size in zip(fitted, sizes, strict=True)
    ]
    return [_GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


def _fit(columns: list[list[str]], width: int, shrink: Sequence[str]) -> tuple[list[list[str]], bool]:
    """The columns, some with shortened texts, and whether they fit."""
    sizes = [max(map(_width, column)) for column in columns]  # by place: several columns may have no title
    excess = sum(sizes) + len(_GAP) * (len(columns) - 1) - width
    titles = [column[0] for column in columns]
    for title in shrink:
        if title in titles and excess > 0:
            place = titles.index(title)
            cut = min(excess, max(sizes[place] - max(_NARROWEST, _width(title)), 0))
            sizes[place] -= cut
            excess -= cut
    fitted = [
        [_shortened(text, size) for text in column] for column, size in zip(columns, sizes, strict=True)
    ]
    return fitted, excess <= 0


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
