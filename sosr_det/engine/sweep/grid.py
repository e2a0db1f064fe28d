"""The points of a grid: parsed from the command line, named, in a fixed order."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sosr_det.engine.configs import parse_override
from sosr_det.errors import ConfigError

# Over P and beta, around the paper's P = 0.99 and its beta of 0.5 and 1. The paper's own ablation is in supplementary
# material that is not public, so these values are chosen here.
DEFAULT_GRID = {
    "model.loss.threshold": ("0.9", "0.95", "0.99", "0.995", "0.999"),
    "model.loss.weight": ("0.1", "0.5", "1", "2"),
}

_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        settings: ``(config key, value as text)`` pairs, in the order of the grid.
        seed: random seed of the run.
        name: folder of the run inside the sweep's; depends on nothing but the two above and the grid's keys.
    """

    settings: tuple[tuple[str, str], ...]
    seed: int
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Settings with numbers as numbers, and the seed: what results are filed under."""
        return {**{key: plain_value(text) for key, text in self.settings}, "seed": self.seed}


def parse_grid(settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=V1,V2,…`` texts as a grid; commas inside brackets or quotes do not separate values.

    Raises:
        ConfigError: no values, a key or a value given twice.
    """
    if not settings:
        return dict(DEFAULT_GRID)
    grid: dict[str, tuple[str, ...]] = {}
    for setting in settings:
        key, equals, raw = setting.partition("=")
        values = _split(raw)
        if not equals or not key.strip() or not all(values):
            raise ConfigError(f"--set expects KEY=V1,V2,…, got {setting!r}")
        key = key.strip()
        if key in grid:
            raise ConfigError(f"--set {key} is given twice; put all its values in one: --set {key}=V1,V2,…")
        seen = [plain_value(value) for value in values]
        repeated = next((v for i, v in enumerate(seen) if v in seen[:i]), None)
        if repeated is not None:
            raise ConfigError(f"--set {key}: the value {repeated!r} is given twice")
        grid[key] = tuple(values)
    return grid


def points(grid: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> list[Point]:
    """All points, every combination with the first seed before any with the second.

    An interrupted sweep then holds whole grids rather than parts of one.
    """
    labels = _labels(list(grid))
    found = []
    for seed in seeds:
        for values in itertools.product(*grid.values()):
            settings = tuple(zip(grid, values, strict=True))
            parts = [f"{labels[key]}-{_fit_for_a_folder(value)}" for key, value in settings]
            found.append(Point(settings, seed, "_".join([*parts, f"seed-{seed}"])))
    return found


def plain_value(text: str) -> Any:
    """A number, truth value or None as itself, anything else (lists too) as its text."""
    value = parse_override(f"value={text}")[1]
    return value if value is None or isinstance(value, (bool, int, float, str)) else text


def _split(raw: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for character in raw:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the dotted keys that tell them apart."""
    for length in range(1, max(len(key.split(".")) for key in keys) + 1):
        labels = {key: ".".join(key.split(".")[-length:]) for key in keys}
        if len(set(labels.values())) == len(keys) and "seed" not in labels.values():
            return labels
    return {key: key for key in keys}


def _fit_for_a_folder(value: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", value).strip("-.")
    if plain == value and len(value) <= 40:
        return value
    # Two values must never share a folder, whatever was replaced.
    return f"{plain[:40]}-{hashlib.sha256(value.encode()).hexdigest()[:6]}"
