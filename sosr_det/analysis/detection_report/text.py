"""Names from data sets and numbers from the analysis, made fit to be shown: names are anybody's text."""

from __future__ import annotations

import html
import math

KIND_MEANING = {
    "classification": "right place, wrong class",
    "localisation": "right class, box too far off",
    "both": "wrong class and box too far off",
    "duplicate": "an object that is found already",
    "background": "nothing is there",
    "missed": "an object that nothing comes near",
    "false_positive": "all false positives removed",
    "false_negative": "no object left unfound",
}
GROUP_TITLE = {
    "small": "small",
    "medium": "medium",
    "large": "large",
    "smallest_quarter": "smallest quarter",
    "second_quarter": "second quarter",
    "third_quarter": "third quarter",
    "largest_quarter": "largest quarter",
    "whole": "whole",
    "truncated": "truncated",
    "difficult_only": "difficult only",
    "difficult_counted": "difficult counted",
}


def tame(text: str, longest: int = 80) -> str:
    """One line of printable characters, shortened in the middle; for anything that draws text."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) > longest:
        head = (longest - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"
    return text


def markup(text: str, longest: int = 200) -> str:
    """The same for HTML, in elements and in quoted attributes."""
    return html.escape(tame(text, longest), quote=True)


def plot_text(text: str, longest: int = 22) -> str:
    """The same for matplotlib, which would take ``$`` for the beginning of a formula."""
    return tame(text, longest).replace("$", r"\$")


def percent(fraction: float | None) -> str:
    """Two decimals; a dash where nothing is defined."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def number(value: float) -> str:
    """A count with commas between thousands."""
    return f"{value:,}"


def plural(count: int, what: str) -> str:
    """``1 image``, ``2 images``, ``2 classes``."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{number(count)} {what}{ending}"
