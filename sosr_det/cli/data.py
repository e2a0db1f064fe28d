"""``sosr-det data``: making and preparing data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make and prepare data sets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `data` a group while it has a single command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not hold anything else.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other pictures.")] = 0,
) -> None:
    """Draw the demo data: ImageNet folders, CUB-200-2011 and VOCdevkit 2007+2012 in their exact formats."""
    from rich.progress import Progress

    from sosr_det.data.demo import generate_demo_data

    with Progress(transient=True) as bar:
        task = bar.add_task("drawing", total=None)
        summary = generate_demo_data(
            out, seed=seed, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    typer.echo(
        f"{'kept' if summary.reused else 'made'} {summary.root} ({summary.bytes / 2**20:.1f} MiB, seed {seed})"
    )
    for split, count in summary.images.items():
        dataset = split.partition("/")[0]
        classes = summary.classes.get(dataset, summary.classes["VOC"])
        typer.echo(f"  {split:<22}{count:>5} images, {classes} classes")
    typer.echo(
        "Drawn data: it shows that the tools work, and nothing about the method. (The real CUB has 200 classes.)"
    )
