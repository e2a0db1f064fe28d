"""``sosr-det report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """One table from run records: backbone | top-1 | ECE | CUB top-1 | VOC2007 mAP."""
    import json

    from sosr_det.analysis.pipeline_table import collect_rows, render_rows

    rows = collect_rows(runs)
    typer.echo(json.dumps(rows, indent=1) if as_json else render_rows(rows))
