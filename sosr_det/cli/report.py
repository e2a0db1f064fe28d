"""``sosr-det report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")],
    seeds: Annotated[
        bool,
        typer.Option(
            "--seeds",
            help="One entry per experiment (runs of the same settings) instead: n, mean and spread over its seeds, "
            "and the paper's number.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """One table from run records: backbone | top-1 | ECE | CUB top-1 | VOC2007 mAP."""
    import json

    if seeds:
        from sosr_det.analysis.seed_table import collect_seeds as collect
        from sosr_det.analysis.seed_table import render_seeds as render
    else:
        from sosr_det.analysis.pipeline_table import collect_rows as collect
        from sosr_det.analysis.pipeline_table import render_rows as render

    rows = collect(runs)
    typer.echo(json.dumps(rows, indent=1) if as_json else render(rows))
