"""How every figure is made and stored: a PNG, and beside it a JSON file of exactly the plotted numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LINE_STYLES = ("-", "--", ":", "-.")
COLOURS = tuple(f"C{i}" for i in range(10))


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """Figure and a 2-D array of axes; sizes in inches. Never touches pyplot's state, so it works in any program."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.grid(alpha=0.3, linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def only_whole_epochs(axes: Any) -> None:
    """No ticks between epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Any, data: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write ``NAME.png`` (150 dpi) and ``NAME.json``; returns both paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / f"{name}.png", folder / f"{name}.json"
    figure.savefig(picture, dpi=150, metadata={"Software": None})
    numbers.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    return [picture, numbers]
