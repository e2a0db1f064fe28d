"""``sosr-det figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def figures(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and their numbers.")] = Path("figures"),
    labels: Annotated[
        str | None,
        typer.Option(help="Comma-separated legend names, one per config, in the order of the runs."),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="Measure the checkpoints of runs that recorded no dynamics (one point each)."
        ),
    ] = False,
    data_root: Annotated[
        Path | None, typer.Option(help="With --recompute: root of the data set, if it was moved.")
    ] = None,
) -> None:
    """The paper's Figs. 1-3, reliability diagram and curves, as PNG and JSON.

    Runs of one config, each with another seed, are averaged; the shaded area is three standard deviations, as in the
    paper.
    Record a run with `sosr-det train --dynamics`.
    """
    from sosr_det.analysis.figures import draw_figures, require_folder

    require_folder(out)
    if recompute:
        from sosr_det.engine.recompute import measure_unrecorded_runs

        for line in measure_unrecorded_runs(runs, data_root):
            typer.echo(line)
    for path in draw_figures(runs, out, labels.split(",") if labels else None):
        typer.echo(path)
