"""Texts for people. Those of manifests come from others: they are made harmless in terminals, Markdown and YAML."""

from __future__ import annotations

import json
import re
from typing import Any

_RUN_OF_BACKTICKS = re.compile(r"`+")


def clean(text: str) -> str:
    """One line of printable characters: control characters and line breaks become replacement characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def clean_lines(text: str) -> list[str]:
    """The lines of a text as :func:`clean` gives each: line breaks alone are kept.

    At least one line. Where they are printed, all but the first must be indented, or fenced, so that none can pass for
    a line of ours.
    """
    return [clean(line) for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]


def size(count: int) -> str:
    """A number of bytes in its largest unit."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def code_span(text: str) -> str:
    """Markdown that shows ``text`` as it is, in a code span, where neither markup, HTML nor links are read.

    Also inside a table, whose cells end at a bar even there.
    """
    text = clean(text).replace("|", "\\|") or " "
    ticks = "`" * (_longest_run(text) + 1)
    # A blank on either side is taken off again, and keeps backticks at the ends apart from the delimiters.
    return (
        f"{ticks} {text} {ticks}" if text.startswith("`") or text.endswith("`") else f"{ticks}{text}{ticks}"
    )


def code_block(lines: list[str], language: str = "") -> list[str]:
    """A fenced block whose fence no line can close."""
    lines = [clean(line) for line in lines]
    fence = "`" * max(3, max(map(_longest_run, lines), default=0) + 1)
    return [f"{fence}{language}", *lines, fence]


def yaml_scalar(value: str | int | float | None) -> str:
    """One YAML value on one line. Texts are always quoted, so that none is read as a number, a tag or a new key."""
    if isinstance(value, float):
        text = repr(value)
        mantissa, letter, exponent = text.partition("e")
        # YAML 1.1 needs a point and a signed exponent to see a number.
        return (
            text if not letter else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
        )
    if isinstance(value, str):
        return json.dumps(clean(value), ensure_ascii=False)
    return json.dumps(value)


def yaml_lines(value: Any, indent: int = 0) -> list[str]:
    """Dicts, lists and scalars as block-style YAML; keys are the caller's own plain words. Empty ones are left out."""
    pad = "  " * indent
    lines: list[str] = []
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in items:
        lead = f"{pad}{key}:" if key is not None else f"{pad}-"
        if isinstance(item, (dict, list)):
            inner = yaml_lines(item, indent + 1)
            if key is None and inner:  # "- key: value", with the first line beside the dash
                lines += [f"{lead} {inner[0].lstrip()}", *inner[1:]]
            elif inner:
                lines += [lead, *inner]
        else:
            lines.append(f"{lead} {yaml_scalar(item)}")
    return lines


def _longest_run(text: str) -> int:
    return max(map(len, _RUN_OF_BACKTICKS.findall(text)), default=0)
