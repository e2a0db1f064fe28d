"""The pictures of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.analysis.comparison.text import OF_A_CLASS, TITLES
from sosr_det.analysis.figures.canvas import COLOURS, new_figure, save

_MOST_CLASSES = 60  # in a picture; the page lists all


def draw_comparison(result: dict[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Every arm's scores per seed, and differences per class; titles and files."""
    metric = result["verdict_metric"]
    pictures = [("scores per seed", draw_seeds(result, metric, folder))]
    first = result["study"]["arms"][0]["name"]
    pairs = [p for p in result["metrics"][metric]["pairs"] if p["reference"] == first]
    if len(pairs[0]["per_class"]) > 1:
        pictures.append(("differences per class", draw_classes(pairs, metric, folder)))
    return pictures


def draw_seeds(result: dict[str, Any], metric: str, folder: Path) -> Path:
    """Dots of one seed joined by a line, and the mean of each arm; beside it the differences with their intervals."""
    numbers = result["metrics"][metric]
    arms, first = list(numbers["arms"]), next(iter(numbers["arms"]))
    pairs = [p for p in numbers["pairs"] if p["reference"] == first]
    figure, axes = new_figure(1, 2, 4 + 1.6 * len(arms), 4, width_ratios=[3, 2])
    scores, differences = axes[0]
    for place, seed in enumerate(result["seeds"]):
        values = [_percent(numbers["arms"][arm]["values"][place]) for arm in arms]
        scores.plot(
            range(len(arms)),
            values,
            "o-",
            color=COLOURS[place % len(COLOURS)],
            alpha=0.8,
            label=f"seed {seed}",
        )
    for place, arm in enumerate(arms):
        mean = _percent(numbers["arms"][arm]["mean"])
        scores.hlines(mean, place - 0.18, place + 0.18, color="black", linewidth=2)
    scores.set_xticks(
        range(len(arms)), [_short(arm) for arm in arms], rotation=15, ha="right", fontsize="small"
    )
    scores.set_xlim(-0.4, len(arms) - 0.6)
    scores.set_title(f"{TITLES[metric]}, %", fontsize="small")
    scores.legend(fontsize="x-small")
    for place, pair in enumerate(pairs):
        points = [100 * value for value in pair.get("per_seed", [])]
        differences.plot([place] * len(points), points, "o", color="0.6", markersize=4)
        if pair["difference"] is not None:
            _interval(differences, place, pair, COLOURS[(place + 1) % len(COLOURS)])
    differences.axhline(0, color="black", linewidth=0.8)
    differences.set_xticks(
        range(len(pairs)), [_short(p["arm"]) for p in pairs], rotation=15, ha="right", fontsize="small"
    )
    differences.set_xlim(-0.6, len(pairs) - 0.4)
    differences.set_title(
        f"difference to {_short(first)}, points,\n95 % over images and seeds", fontsize="small"
    )
    data = {
        "metric": metric,
        "seeds": result["seeds"],
        "arms": numbers["arms"],
        "pairs": [_plotted(p) for p in pairs],
    }
    return save(figure, data, folder, "seeds")[0]


def draw_classes(pairs: list[dict[str, Any]], metric: str, folder: Path) -> Path:
    """One row per class: the difference to the first arm with its own interval."""
    names, title = _shown_classes(pairs)
    figure, axes = new_figure(1, 1, 7, 1.6 + 0.3 * len(names) * max(1, 0.6 * len(pairs)))
    ax = axes[0, 0]
    for number, pair in enumerate(pairs):
        shift = 0.0 if len(pairs) == 1 else 0.5 * (number / (len(pairs) - 1) - 0.5)
        colour = COLOURS[(number + 1) % len(COLOURS)]
        for place, name in enumerate(names):
            found = pair["per_class"][name]
            if found is None:
                continue
            half = found["half_width"]
            ax.errorbar(
                100 * found["difference"], place + shift, xerr=None if half is None else 100 * half,
                fmt="o", color=colour, markersize=4, capsize=2, label=_short(pair["arm"]) if place == 0 else None,
            )  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(names)), [_short(name) for name in names], fontsize="small")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_title(
        f"difference to {_short(pairs[0]['reference'])} {title}, {OF_A_CLASS[metric]},\n"
        "percentage points, each with its own 95 % interval",
        fontsize="small",
    )
    # Intervals of few seeds and images may be wider than any difference can be.
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -100), min(high, 100))
    if len(pairs) > 1:
        ax.legend(fontsize="x-small")
    data = {"metric": metric, "classes": names, "pairs": [_plotted(p) for p in pairs]}
    return save(figure, data, folder, "classes")[0]


def _shown_classes(pairs: list[dict[str, Any]]) -> tuple[list[str], str]:
    """All classes in their order, or those with the largest differences where a picture cannot hold all."""
    names = list(pairs[0]["per_class"])
    if len(names) <= _MOST_CLASSES:
        return names, "per class"

    def largest(name: str) -> float:
        found = (pair["per_class"][name] for pair in pairs)
        return max((abs(each["difference"]) for each in found if each), default=-1.0)

    chosen = set(sorted(names, key=largest, reverse=True)[:_MOST_CLASSES])
    shown = [name for name in names if name in chosen]
    return shown, f"in the {_MOST_CLASSES} of {len(names)} classes where it is largest"


def _interval(ax: Any, place: int, pair: dict[str, Any], colour: str) -> None:
    half = pair["half_width"]
    ax.errorbar(
        place + 0.15, 100 * pair["difference"], yerr=None if half is None else 100 * half,
        fmt="D", color=colour, capsize=4,
    )  # fmt: skip


def _plotted(pair: dict[str, Any]) -> dict[str, Any]:
    return {
        key: pair.get(key)
        for key in ("arm", "reference", "difference", "half_width", "per_seed", "per_class")
    }


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _short(name: str) -> str:
    """A label; names of others must not be read as formulas by matplotlib."""
    shown = name if len(name) <= 28 else f"{name[:27]}…"
    return shown.replace("$", r"\$")
