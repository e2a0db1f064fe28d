"""What a dry run found, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

_WIDTH = 110


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: a word or two.
        ok: None where it could not be looked at, since another one failed.
        text: a sentence: what was found, or what is wrong.
    """

    name: str
    ok: bool | None
    text: str


@dataclass
class Report:
    """All checks in their order, and the estimates by name."""

    checks: list[Check] = field(default_factory=list)
    estimates: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, ok: bool | None, text: str) -> None:
        self.checks.append(Check(name, ok, " ".join(text.split())))

    def names(self, name: str) -> bool:
        """Whether there is a check of that name."""
        return any(check.name == name for check in self.checks)

    @property
    def ok(self) -> bool:
        """Whether a training would work, as far as this can tell."""
        return all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """The table, ready to be printed."""
        words = {True: "ok", False: "FAILED", None: "not run"}
        rows = [(check.name, words[check.ok], check.text) for check in self.checks]
        failed = [check.name for check in self.checks if check.ok is False]
        if failed:
            last = f"{len(failed)} of {len(self.checks)} checks failed: {', '.join(failed)}"
        else:
            last = "everything that was tried works"
        lines = _table(rows)
        if self.estimates:
            lines += ["", "estimates", *_table([(name, "", text) for name, text in self.estimates.items()])]
        return [*lines, "", last]


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = []
    for name, word, text in rows:
        head = f"{name:<{widths[0]}}  " + (f"{word:<{widths[1]}}  " if widths[1] else "")
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False,
            break_on_hyphens=False,
        ) or [head.rstrip()]  # fmt: skip
    return lines
